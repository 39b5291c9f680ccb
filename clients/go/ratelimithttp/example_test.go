package ratelimithttp_test

import (
	"log"
	"net/http"

	"github.com/ratelimit-service/clients/go/ratelimit"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

// The pattern of the mux is the resource, and health checks and CORS preflights are not checked.
func ExampleMethodAndRouteOf() {
	handler := http.NotFoundHandler()
	client, err := ratelimit.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/orders/{id}", handler)
	guarded := ratelimithttp.Middleware(client,
		ratelimithttp.WithResource(ratelimithttp.MethodAndRouteOf(mux)), // GET /v1/orders/{id}
		ratelimithttp.WithSkip(func(r *http.Request) bool {
			return r.URL.Path == "/healthz" || ratelimithttp.IsPreflight(r)
		}))(mux)
	log.Fatal(http.ListenAndServe("localhost:8080", guarded))
}
