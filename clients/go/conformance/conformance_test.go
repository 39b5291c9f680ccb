// Package conformance_test runs the contract of all clients against this one.
package conformance_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

// The clock stands still but for what the cases advance it by.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// runner runs one case.
type runner struct {
	server    *scripted.Server
	client    *ratelimit.Client
	site      *httptest.Server
	clock     *clock
	callbacks atomic.Uint64
	usedIDs   map[string]bool
}

// Every case of the contract must hold for the client, and for the middleware.
func TestContract(t *testing.T) {
	for file, cases := range readCases(t) {
		t.Run(file, func(t *testing.T) {
			for _, one := range cases {
				t.Run(one.Name, func(t *testing.T) {
					t.Parallel()
					run := newRunner(t, one.Options)
					for i, step := range one.Steps {
						run.step(t, i, step)
					}
				})
			}
		})
	}
}

func newRunner(t *testing.T, options map[string]any) *runner {
	t.Helper()
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	run := &runner{server: server, clock: &clock{time.Unix(1_700_000_000, 0)}, usedIDs: map[string]bool{}}
	run.client, err = ratelimit.New(server.Address(), append(clientOptions(t, options),
		ratelimit.WithClock(run.clock.Now),
		ratelimit.WithOnFailure(func(decision ratelimit.Decision) {
			if decision.Failure == nil {
				t.Error("the callback was called without the failure")
			}
			run.callbacks.Add(1)
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.client.Close() })
	server.Connected(4)
	application := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	run.site = httptest.NewServer(ratelimithttp.Middleware(run.client)(application))
	t.Cleanup(run.site.Close)
	return run
}

func clientOptions(t *testing.T, given map[string]any) []ratelimit.Option {
	t.Helper()
	options := []ratelimit.Option{}
	if given["deadline_ms"] == nil {
		options = append(options, ratelimit.WithDeadline(10*time.Second))
	}
	cacheSize, longest := 10_000, time.Minute
	for name, value := range given {
		switch name {
		case "deadline_ms":
			if value != "default" {
				options = append(options, ratelimit.WithDeadline(time.Duration(value.(float64))*time.Millisecond))
			}
		case "fail_open":
			options = append(options, ratelimit.WithFailOpen(value.(bool)))
		case "connections":
			options = append(options, ratelimit.WithConnections(int(value.(float64))))
		case "denial_cache_size":
			cacheSize = int(value.(float64))
		case "denial_cache_max_age_ms":
			longest = time.Duration(value.(float64)) * time.Millisecond
		default:
			t.Fatalf("the case has an option %q that this runner does not know", name)
		}
	}
	if cacheSize != 10_000 || longest != time.Minute {
		options = append(options, ratelimit.WithDenialCache(cacheSize, longest))
	}
	return options
}

func (r *runner) step(t *testing.T, number int, step step) {
	t.Helper()
	if step.AdvanceMS != nil {
		r.clock.now = r.clock.now.Add(time.Duration(*step.AdvanceMS) * time.Millisecond)
		return
	}
	answers := make([]scripted.Answer, len(step.Server))
	sure := len(answers)
	for i, answer := range step.Server {
		if answer.MayMiss {
			sure--
		}
		var err error
		if answers[i], err = answer.script(); err != nil {
			t.Fatalf("step %d: %v", number, err)
		}
	}
	r.server.Script(answers...)
	look := newLook(t, number, step.Sees)
	ownID := ""
	if step.Request != nil {
		r.request(t, step.Request, look)
	} else {
		ownID = step.Call.RequestID
		r.call(t, step.Call, look)
	}
	r.server.Attempted(sure)
	r.attempts(look, sure, len(answers), ownID)
	look.failures(r.client.Failures(), r.callbacks.Load())
	look.nothingLeft()
}

func (r *runner) call(t *testing.T, call *call, look *look) {
	t.Helper()
	request, err := call.request()
	if err != nil {
		t.Fatal(err)
	}
	ask := r.client.Check
	if call.Cost != nil {
		request.Cost = *call.Cost
	}
	if call.Peek {
		ask = r.client.Look
	}
	ctx, cancel := call.context(t.Context())
	defer cancel()
	began := time.Now()
	decision, err := ask(ctx, request)
	look.took(time.Since(began))
	if look.ended(err) {
		return
	}
	look.raised(err)
	if err == nil {
		look.decision(decision)
	}
}

func (r *runner) request(t *testing.T, given *httpRequest, look *look) {
	t.Helper()
	request, err := http.NewRequest(given.Method, r.site.URL+given.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range given.Headers {
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
	look.response(response, body)
}

// attempts checks what the server saw, and the ids by which it tells a repetition from a new call.
func (r *runner) attempts(look *look, sure, scripted int, ownID string) {
	seen := r.server.Attempts()
	if len(seen) < sure || len(seen) > scripted {
		look.fault("the server saw %d attempts, not %d to %d", len(seen), sure, scripted)
	}
	for i, attempt := range seen {
		id := attempt.Request.RequestId
		switch {
		case id == "":
			look.fault("attempt %d has no request id", i)
		case i > 0 && id != seen[0].Request.RequestId:
			look.fault("attempt %d has the request id %q, not %q", i, id, seen[0].Request.RequestId)
		case ownID != "" && id != ownID:
			look.fault("attempt %d has the request id %q, not the call's own %q", i, id, ownID)
		case ownID == "" && i == 0 && r.usedIDs[id]:
			look.fault("the request id %q was used before", id)
		}
		r.usedIDs[id] = true
	}
	look.attempts(seen)
}

func init() {
	// One case is about a setup that is wrong, which the middleware logs.
	slog.SetDefault(slog.New(slog.DiscardHandler))
}
