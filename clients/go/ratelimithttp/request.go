package ratelimithttp

import (
	"net/http"
	"strings"
)

// MethodAndRoute is a resource: the method, GET for HEAD, and the pattern of the http.ServeMux that the request was routed by,
// such as `GET /v1/orders/{id}`, in place of the path. It is for a middleware around a handler of the mux; a request without a
// pattern has the method and the path. Around the mux itself, use MethodAndRouteOf.
func MethodAndRoute(r *http.Request) string {
	return methodAndPattern(r, r.Pattern)
}

// MethodAndRouteOf is MethodAndRoute for a middleware around the mux, which has not routed the request yet.
func MethodAndRouteOf(mux *http.ServeMux) func(*http.Request) string {
	return func(r *http.Request) string {
		_, pattern := mux.Handler(r)
		return methodAndPattern(r, pattern)
	}
}

// IsPreflight is whether a request is a CORS preflight, which browsers send without a key: for WithSkip.
func IsPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

func methodAndPattern(r *http.Request, pattern string) string {
	if pattern == "" {
		return methodAndPath(r)
	}
	// A pattern may begin with a method: GET has the requests of HEAD, too.
	if _, route, hasMethod := strings.Cut(pattern, " "); hasMethod {
		pattern = strings.TrimLeft(route, " \t")
	}
	return method(r) + " " + pattern
}
