// Package ratelimithttp lets a net/http server ask a ratelimit-service before each request.
//
//	client, err := ratelimit.New("localhost:50051")
//	server := ratelimithttp.Middleware(client)(handler)
package ratelimithttp

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// Checker decides calls. *ratelimit.Client is one.
type Checker interface {
	Check(ctx context.Context, request ratelimit.Request) (ratelimit.Decision, error)
}

type options struct {
	key      func(*http.Request) string
	resource func(*http.Request) string
	cost     func(*http.Request) uint32
	style    ratelimit.Style
	onError  func(http.ResponseWriter, *http.Request, error)
}

// Option changes how the middleware works.
type Option func(*options)

// WithKey says where a request's API key is. The default is the header `x-api-key`. An empty key is refused.
func WithKey(key func(*http.Request) string) Option {
	return func(o *options) { o.key = key }
}

// WithResource names what a request calls. The default is the method and the decoded path: `GET /v1/orders`.
func WithResource(resource func(*http.Request) string) Option {
	return func(o *options) { o.resource = resource }
}

// WithCost says how many tokens a request takes: 1 to 1,000,000; zero means 1. The default is 1.
func WithCost(cost func(*http.Request) uint32) Option {
	return func(o *options) { o.cost = cost }
}

// WithStyle sets the style of the headers. The default is ratelimit.IETF.
func WithStyle(style ratelimit.Style) Option {
	return func(o *options) { o.style = style }
}

// WithOnError answers a request that could not be checked because the setup is wrong: a token that is not good, a
// server without the service. The default logs the error by slog and answers 500.
func WithOnError(onError func(http.ResponseWriter, *http.Request, error)) Option {
	return func(o *options) { o.onError = onError }
}

// Middleware asks the checker before each request. A request that is allowed goes on to the handler, and its answer
// gets the headers; any other is answered here, with a body of type application/problem+json.
func Middleware(checker Checker, opts ...Option) func(http.Handler) http.Handler {
	o := options{
		key:      func(r *http.Request) string { return r.Header.Get("x-api-key") },
		resource: func(r *http.Request) string { return r.Method + " " + r.URL.Path },
		cost:     func(*http.Request) uint32 { return 1 },
		style:    ratelimit.IETF,
		onError:  serverError,
	}
	for _, apply := range opts {
		apply(&o)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			key := o.key(r)
			if key == "" {
				refuse(w, ratelimit.MissingKey())
				return
			}
			request := ratelimit.Request{APIKey: key, Resource: o.resource(r), Cost: o.cost(r)}
			decision, err := checker.Check(r.Context(), request)
			if err != nil {
				if refusal, isTheirs := ratelimit.RefusalOf(err); isTheirs {
					refuse(w, refusal)
				} else {
					o.onError(w, r, err)
				}
				return
			}
			for _, header := range decision.Headers(o.style) {
				w.Header().Set(header.Name, header.Value)
			}
			if refusal, refused := decision.Refusal(); refused {
				refuse(w, refusal)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func refuse(w http.ResponseWriter, refusal ratelimit.Refusal) {
	w.Header().Set("Content-Type", "application/problem+json")
	if refusal.HTTPStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "ApiKey")
	}
	w.WriteHeader(refusal.HTTPStatus)
	// A caller that has gone does not read its refusal.
	_, _ = w.Write(refusal.Problem())
}

func serverError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		slog.ErrorContext(r.Context(), "a request could not be checked", "error", err)
	}
	http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
}
