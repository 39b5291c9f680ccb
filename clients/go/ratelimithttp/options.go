package ratelimithttp

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

type options struct {
	key         func(*http.Request) string
	resource    func(*http.Request) string
	cost        func(*http.Request) uint64
	skip        func(*http.Request) bool
	headerStyle ratelimit.HeaderStyle
	onError     func(http.ResponseWriter, *http.Request, error)
}

func defaults() options {
	return options{
		key:         xAPIKey,
		resource:    methodAndPath,
		cost:        costOfOne,
		skip:        never,
		headerStyle: ratelimit.HeaderStyleIETF,
		onError:     internalServerError,
	}
}

// Option configures the middleware.
type Option func(*options)

// WithKey sets the function for a request's API key. A request with an empty one is refused. The default is the header
// `x-api-key`.
func WithKey(key func(*http.Request) string) Option {
	return func(o *options) { o.key = key }
}

// WithResource sets the function for what a request calls. The default is the method, GET for HEAD, and the decoded path:
// `GET /v1/orders`.
// MethodAndRoute and MethodAndRouteOf name the route in place of the path.
func WithResource(resource func(*http.Request) string) Option {
	return func(o *options) { o.resource = resource }
}

// WithCost sets the function for how many tokens a request takes: 0 to 9,007,199,254, where 0 is a peek. The default is 1.
func WithCost(cost func(*http.Request) uint64) Option {
	return func(o *options) { o.cost = cost }
}

// WithSkip sets the function for whether a request proceeds without a check, such as a health check, or a CORS preflight: see
// IsPreflight. The default skips none.
func WithSkip(skip func(*http.Request) bool) Option {
	return func(o *options) { o.skip = skip }
}

// WithHeaderStyle sets the style of the headers. The default is ratelimit.HeaderStyleIETF.
func WithHeaderStyle(style ratelimit.HeaderStyle) Option {
	return func(o *options) { o.headerStyle = style }
}

// WithOnError sets the response to a request that could not be checked for a reason that is not the caller's, such as a
// wrong token of the client. The default logs the error with slog and responds with 500.
func WithOnError(onError func(http.ResponseWriter, *http.Request, error)) Option {
	return func(o *options) { o.onError = onError }
}

func xAPIKey(r *http.Request) string { return r.Header.Get("x-api-key") }

func methodAndPath(r *http.Request) string { return method(r) + " " + r.URL.Path }

// method is that of the handler that is run: of GET for HEAD.
func method(r *http.Request) string {
	if name := strings.ToUpper(r.Method); name != http.MethodHead {
		return name
	}
	return http.MethodGet
}

func costOfOne(*http.Request) uint64 { return 1 }

func never(*http.Request) bool { return false }

func internalServerError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "a request was not checked", "error", err)
	}
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}
