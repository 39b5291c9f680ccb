// Package ratelimithttp has middleware for net/http that checks each request.
//
//	client, err := ratelimit.NewClient("localhost:50051")
//	handler = ratelimithttp.Middleware(client)(handler)
package ratelimithttp

import (
	"encoding/json"
	"net/http"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// Middleware checks each request with the client. An allowed request proceeds to the handler, and its response gets the
// headers; any other gets the response of a ratelimit.Refusal, with a body of type application/problem+json.
func Middleware(client *ratelimit.Client, opts ...Option) func(http.Handler) http.Handler {
	o := defaults()
	for _, apply := range opts {
		apply(&o)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if o.skip(r) {
				next.ServeHTTP(w, r)
				return
			}
			key := o.key(r)
			if key == "" {
				refuse(w, ratelimit.RefusalForMissingKey(), o.headerStyle)
				return
			}
			decision, err := check(client, r, key, &o)
			if err != nil {
				if refusal, isCallers := ratelimit.RefusalForError(err); isCallers {
					refuse(w, refusal, o.headerStyle)
				} else {
					o.onError(w, r, err)
				}
				return
			}
			if refusal, refused := ratelimit.RefusalForDecision(decision); refused {
				refuse(w, refusal, o.headerStyle)
				return
			}
			setHeaders(w, ratelimit.LimitHeaders(decision, o.headerStyle))
			next.ServeHTTP(w, r)
		})
	}
}

func check(client *ratelimit.Client, r *http.Request, key string, o *options) (ratelimit.Decision, error) {
	request := ratelimit.CheckRequest{APIKey: key, Resource: o.resource(r), Cost: o.cost(r)}
	if request.Cost == 0 {
		return client.Peek(r.Context(), request)
	}
	return client.Check(r.Context(), request)
}

func refuse(w http.ResponseWriter, refusal ratelimit.Refusal, style ratelimit.HeaderStyle) {
	setHeaders(w, refusal.Headers(style))
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(refusal.HTTPStatus)
	// Texts and integers always encode, and a caller that has disconnected does not read its response.
	body, _ := json.Marshal(refusal.Problem())
	_, _ = w.Write(body)
}

func setHeaders(w http.ResponseWriter, headers map[string]string) {
	for name, value := range headers {
		w.Header().Set(name, value)
	}
}
