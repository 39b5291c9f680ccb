package ratelimithttp_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

// The contract's cases for the middleware are run in package conformance_test; these are the options.

func site(t *testing.T, options ...ratelimithttp.Option) (*scripted.Server, *httptest.Server) {
	t.Helper()
	server, client := start(t)
	return server, serve(t, ratelimithttp.Middleware(client, options...)(hello))
}

func start(t *testing.T) (*scripted.Server, *ratelimit.Client) {
	t.Helper()
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client, err := ratelimit.NewClient(server.Address(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return server, client
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })

func serve(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	behind := httptest.NewServer(handler)
	t.Cleanup(behind.Close)
	return behind
}

func get(t *testing.T, url string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	return send(t, http.MethodGet, url, headers)
}

func send(t *testing.T, method, url string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func over(limit string) scripted.Response {
	return scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Reason: ratelimit.ReasonOverLimit, Limit: limit, RetryAfter: durationpb.New(1500 * time.Millisecond),
		Limits: []*ratelimitv1.LimitResult{{
			Name: limit, Limit: 20, WouldDeny: true, Window: durationpb.New(2 * time.Second),
			ResetAfter: durationpb.New(2 * time.Second), RetryAfter: durationpb.New(1500 * time.Millisecond),
		}},
	})
}

// Key, resource, cost and header style are those of the options.
func TestOptions(t *testing.T) {
	server, behind := site(t,
		ratelimithttp.WithKey(func(r *http.Request) string { return r.URL.Query().Get("key") }),
		ratelimithttp.WithResource(func(*http.Request) string { return "orders.list" }),
		ratelimithttp.WithCost(func(*http.Request) uint64 { return 3 }),
		ratelimithttp.WithHeaderStyle(ratelimit.HeaderStyleXRateLimit))
	server.Script(over("burst"))
	response, body := get(t, behind.URL+"/?key=k1", nil)
	request := server.Attempts()[0].Request
	if request.GetApiKey() != "k1" || request.Resource != "orders.list" || request.GetCost() != 3 {
		t.Errorf("the service received %v", request)
	}
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("X-RateLimit-Limit") != "20" ||
		response.Header.Get("X-RateLimit-Reset") != "2" || response.Header.Get("Retry-After") != "2" ||
		response.Header.Get("RateLimit") != "" {
		t.Errorf("got %d with %v and %s", response.StatusCode, response.Header, body)
	}
}

// A path that is not valid UTF-8 is refused without a call to the service, and does not fail open.
func TestAPathThatIsNotUTF8(t *testing.T) {
	server, behind := site(t)
	server.Script()
	response, body := get(t, behind.URL+"/%ff", map[string]string{"x-api-key": "k1"})
	var problem struct{ Detail, Reason string }
	if err := json.Unmarshal([]byte(body), &problem); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusBadRequest || problem.Reason != "INVALID_FIELD" ||
		problem.Detail != "resource: is not valid UTF-8" || len(server.Attempts()) != 0 {
		t.Errorf("got %d with %s", response.StatusCode, body)
	}
}

// An error that is not the caller's goes to the function of the option, and the request does not pass.
func TestOnError(t *testing.T) {
	server, behind := site(t, ratelimithttp.WithOnError(func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}))
	server.Script(scripted.Fail(status.New(codes.Unauthenticated, "the token is not known")))
	response, body := get(t, behind.URL, map[string]string{"x-api-key": "k1"})
	if response.StatusCode != http.StatusBadGateway || !strings.Contains(body, "the token is not known") {
		t.Errorf("got %d with %q", response.StatusCode, body)
	}
}

// A cost of 0 is a peek.
func TestACostOf0IsAPeek(t *testing.T) {
	server, behind := site(t, ratelimithttp.WithCost(func(*http.Request) uint64 { return 0 }))
	server.Script(over("burst"))
	get(t, behind.URL, map[string]string{"x-api-key": "k1"})
	if cost := server.Attempts()[0].Request.Cost; cost == nil || *cost != 0 {
		t.Errorf("the service received the cost %v", cost)
	}
}

var allow = scripted.Decide(&ratelimitv1.CheckLimitResponse{Allowed: true, Reason: ratelimit.ReasonWithinLimit})

// Health checks and CORS preflights, which have no key, proceed without a check and without headers.
func TestWhatIsSkippedIsNotChecked(t *testing.T) {
	server, behind := site(t, ratelimithttp.WithSkip(func(r *http.Request) bool {
		return r.URL.Path == "/healthz" || ratelimithttp.IsPreflight(r)
	}))
	server.Script()
	for _, one := range []struct {
		method, path, asked string
		status              int
	}{
		{http.MethodGet, "/healthz", "", http.StatusOK},
		{http.MethodOptions, "/v1/orders", http.MethodPut, http.StatusOK},
		{http.MethodOptions, "/v1/orders", "", http.StatusUnauthorized},
		{http.MethodPut, "/v1/orders", http.MethodPut, http.StatusUnauthorized},
	} {
		request, err := http.NewRequestWithContext(t.Context(), one.method, behind.URL+one.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", "https://example.com")
		if one.asked != "" {
			request.Header.Set("Access-Control-Request-Method", one.asked)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != one.status || response.Header.Get("RateLimit") != "" {
			t.Errorf("%+v: got %d with %v", one, response.StatusCode, response.Header)
		}
	}
	if attempts := server.Attempts(); len(attempts) != 0 {
		t.Errorf("the service received %d attempts", len(attempts))
	}
}

// The resource is the pattern of the mux, be the middleware around a handler of it or around the mux itself.
func TestTheRouteInPlaceOfThePath(t *testing.T) {
	server, client := start(t)
	inside := http.NewServeMux()
	guarded := ratelimithttp.Middleware(client, ratelimithttp.WithResource(ratelimithttp.MethodAndRoute))(hello)
	inside.Handle("GET /v1/orders/{id}", guarded)
	inside.Handle("/files/", guarded)
	around := http.NewServeMux()
	around.Handle("GET /v1/orders/{id}", hello)
	around.Handle("/files/", hello)
	for name, one := range map[string]struct {
		handler   http.Handler
		resources map[string]string
	}{
		"inside": {inside, map[string]string{"/v1/orders/7": "GET /v1/orders/{id}", "/files/a/b?c": "GET /files/"}},
		"around": {
			ratelimithttp.Middleware(client, ratelimithttp.WithResource(ratelimithttp.MethodAndRouteOf(around)))(around),
			map[string]string{
				"/v1/orders/7": "GET /v1/orders/{id}", "/files/a/b?c": "GET /files/", "/nothing/8": "GET /nothing/8",
			},
		},
		"without a mux": {guarded, map[string]string{"/v1/orders/7": "GET /v1/orders/7"}},
	} {
		behind := serve(t, one.handler)
		for path, resource := range one.resources {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				server.Script(allow)
				send(t, method, behind.URL+path, map[string]string{"x-api-key": "k1"})
				if got := server.Attempts()[0].Request.Resource; got != resource {
					t.Errorf("%s: the resource of %s %s is %q, not %q", name, method, path, got, resource)
				}
			}
		}
	}
}
