// Package conformance_test runs the contract of all clients against this one.
package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

// clock stands still except for advance_ms.
type clock struct{ passed atomic.Int64 }

func (c *clock) Now() time.Time { return time.Unix(1_700_000_000, c.passed.Load()) }

// runner runs one case.
type runner struct {
	server *scripted.Server
	target string
	client *ratelimit.Client
	site   *httptest.Server
	clock  *clock
	// hasCallback is whether failures are reported to the callback, and not logged.
	hasCallback bool
	callbacks   atomic.Uint64
	metrics     *recordedMetrics
	warnings    *warnings
	usedIDs     map[string]bool
	// grantIDs are those of requests for units, in their order.
	grantIDs  []string
	isGranted bool
	// reservation is the one that steps settle and extend.
	reservation *ratelimit.Reservation
}

// Every case of the contract must hold for the client, and for the middleware.
func TestContract(t *testing.T) {
	for file, cases := range readCases(t) {
		t.Run(file, func(t *testing.T) {
			for _, one := range cases {
				t.Run(one.Name, func(t *testing.T) {
					t.Parallel()
					run := newRunner(t, one)
					for i, step := range one.Steps {
						run.step(t, i, step)
					}
					run.end(t)
				})
			}
		})
	}
}

// A target that no service can be called at is an error of NewClient, with what is wrong with it.
func TestTargets(t *testing.T) {
	for _, one := range readFile[targetCase](t, "targets.json") {
		client, err := ratelimit.NewClient(one.Target)
		if one.Problem == nil {
			opened(t, one.Name, client, err)
			continue
		}
		target, _ := json.Marshal(one.Target)
		want := fmt.Sprintf(
			`ratelimit: target is %s: %s; it must be host:port, such as "localhost:50051", dns:///host:port or unix:path`,
			target, *one.Problem)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, not %s", one.Name, err, want)
		}
	}
}

// opened closes a client, or reports why there is none.
func opened(t *testing.T, name string, client *ratelimit.Client, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	_ = client.Close()
}

// A token that no call can be sent with is an error of NewClient, with what is wrong with it and without its value.
func TestTokens(t *testing.T) {
	for _, one := range readFile[tokenCase](t, "tokens.json") {
		client, err := ratelimit.NewClient("localhost:50051", ratelimit.WithToken(one.Token))
		if one.Problem == nil {
			opened(t, one.Name, client, err)
			continue
		}
		want := fmt.Sprintf("ratelimit: token has %s in it; it must be printable ASCII without blanks", *one.Problem)
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, not %s", one.Name, err, want)
		}
	}
}

func newRunner(t *testing.T, one contractCase) *runner {
	t.Helper()
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	run := &runner{
		server: server, target: server.Address(), clock: &clock{}, usedIDs: map[string]bool{},
		isGranted:   one.Options["mode"] == "granted",
		hasCallback: one.Options["on_failure"] == nil, metrics: &recordedMetrics{}, warnings: &warnings{},
	}
	if one.Stream {
		server.ServeStreams()
	}
	if one.AcceptsAfterMS != nil {
		run.target = lateProxy(t, server.Address(), one.AcceptsAfterMS)
	}
	options := append(clientOptions(t, one.Options),
		ratelimit.WithClock(run.clock.Now),
		ratelimit.WithMetrics(run.metrics),
		ratelimit.WithLogger(slog.New(run.warnings)))
	if run.hasCallback {
		options = append(options, ratelimit.WithOnFailure(func(failure *ratelimit.Error) {
			if failure == nil {
				t.Error("the callback was called without the error")
			}
			run.callbacks.Add(1)
		}))
	}
	run.client, err = ratelimit.NewClient(run.target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.client.Close() })
	if one.AcceptsAfterMS == nil {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := run.client.WaitUntilConnected(ctx); err != nil {
			t.Fatal(err)
		}
	}
	application := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	run.site = httptest.NewServer(ratelimithttp.Middleware(run.client)(application))
	t.Cleanup(run.site.Close)
	return run
}

func clientOptions(t *testing.T, given map[string]any) []ratelimit.ClientOption {
	t.Helper()
	options := []ratelimit.ClientOption{}
	if given["deadline_ms"] == nil {
		options = append(options, ratelimit.WithDeadline(10*time.Second))
	}
	for name, value := range given {
		switch name {
		case "deadline_ms":
			if value != "default" {
				options = append(options, ratelimit.WithDeadline(time.Duration(value.(float64))*time.Millisecond))
			}
		case "on_failure":
			// Left out, so that failures are logged.
		case "connect_timeout_ms":
			options = append(options, ratelimit.WithConnectTimeout(time.Duration(value.(float64))*time.Millisecond))
		case "fail_open":
			options = append(options, ratelimit.WithFailOpen(value.(bool)))
		case "connections":
			options = append(options, ratelimit.WithConnections(int(value.(float64))))
		case "denial_cache_size":
			options = append(options, ratelimit.WithDenialCacheSize(int(value.(float64))))
		case "mode":
			options = append(options, ratelimit.WithMode(ratelimit.Mode(value.(string))))
		case "near_limit":
			options = append(options, ratelimit.WithNearLimit(ratelimit.NearLimit(value.(string))))
		case "denial_cache_max_age_ms":
			options = append(options, ratelimit.WithDenialCacheMaxAge(time.Duration(value.(float64))*time.Millisecond))
		default:
			t.Fatalf("this runner does not know the option %q", name)
		}
	}
	return options
}

func (r *runner) step(t *testing.T, number int, step step) {
	t.Helper()
	if step.AdvanceMS != nil {
		r.clock.passed.Add(int64(time.Duration(*step.AdvanceMS) * time.Millisecond))
		return
	}
	responses := make([]scripted.Response, len(step.Server))
	required := len(responses)
	for i, item := range step.Server {
		if item.Optional {
			required--
		}
		var err error
		if responses[i], err = item.script(); err != nil {
			t.Fatalf("step %d: %v", number, err)
		}
	}
	r.server.Script(responses...)
	expect := newExpectation(t, number, r.target, step.Expect)
	// Calls that have not waited are in the numbers of grants only.
	expect.verifiesDecisions = step.Request == nil && step.Scope == nil && (!r.isGranted || len(responses) > 0)
	ownID := ""
	switch {
	case step.Close:
		_ = r.client.Close()
	case step.Withdraw != nil:
		r.server.Withdraw(step.Withdraw)
	case step.Wait != nil:
		// For what the client sends by itself.
	case step.Request != nil:
		r.request(t, step.Request, expect)
	case step.Settle != nil:
		r.settle(t, step.Settle, expect)
	case step.Extend != nil:
		started := time.Now()
		extended, err := r.reservation.Extend(t.Context(), time.Duration(step.Extend.HoldMS)*time.Millisecond)
		expect.took(time.Since(started))
		expect.error(err)
		expect.field("extended", extended)
	case step.Ready != nil:
		r.ready(t, step.Ready, expect)
	case step.Scope != nil:
		r.scope(t, step.Scope, expect)
	case step.Call.Reserve:
		ownID = step.Call.RequestID
		r.reserve(t, step.Call, expect)
	default:
		ownID = step.Call.RequestID
		r.call(t, step.Call, expect)
	}
	if step.Wait != nil && required == 0 || step.Withdraw != nil && required == 0 {
		time.Sleep(50 * time.Millisecond)
	}
	r.server.WaitForAttempts(required)
	r.attempts(expect, required, len(responses), ownID)
	expect.failures(r.client.Failures(), r.hasCallback, r.callbacks.Load(), r.metrics)
	expect.logged(r.warnings.take())
	expect.grants(r.client)
	expect.allVerified()
}

// end closes the client, and verifies that the metrics got all numbers of its grants.
func (r *runner) end(t *testing.T) {
	t.Helper()
	if !r.isGranted {
		return
	}
	r.server.Script()
	_ = r.client.Close()
	got := r.metrics.granted()
	for name, number := range grantFields(r.client.Grants()) {
		if got[name] != number {
			t.Errorf("the metrics have %v %s, and the client %v", got[name], name, number)
		}
	}
}

func (r *runner) call(t *testing.T, call *call, expect *expectation) {
	t.Helper()
	request, err := call.request()
	if err != nil {
		t.Fatal(err)
	}
	method := r.client.Check
	if call.Cost != nil {
		request.Cost = *call.Cost
	}
	if call.Peek {
		method = r.client.Peek
	}
	if call.Charge {
		method = r.client.Charge
	}
	ctx, cancel := call.context(t.Context())
	defer cancel()
	started := time.Now()
	decision, err := method(ctx, request)
	expect.took(time.Since(started))
	if expect.abandoned(err) {
		return
	}
	expect.error(err)
	if err == nil {
		expect.decision(decision)
	}
}

func (r *runner) ready(t *testing.T, ready *ready, expect *expectation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ready.TimeoutMS)*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := r.client.Ready(ctx)
	expect.took(time.Since(started))
	expect.error(err)
	expect.field("ready", err == nil)
}

func (r *runner) reserve(t *testing.T, call *call, expect *expectation) {
	t.Helper()
	request, err := call.reserve()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := call.context(t.Context())
	defer cancel()
	reservation, err := r.client.Reserve(ctx, request)
	if expect.abandoned(err) {
		return
	}
	expect.error(err)
	if err == nil {
		r.reservation = reservation
		t.Cleanup(func() { _ = r.client.Close(); _ = reservation.Close() })
		expect.reservation(reservation)
	}
}

func (r *runner) settle(t *testing.T, settle *settle, expect *expectation) {
	t.Helper()
	ctx, cancel := settle.context(t.Context())
	defer cancel()
	started := time.Now()
	settlement, err := r.reservation.Settle(ctx, settle.Actual)
	expect.took(time.Since(started))
	if expect.abandoned(err) {
		return
	}
	expect.error(err)
	if err == nil {
		expect.settlement(settlement)
	}
}

func (r *runner) scope(t *testing.T, scope *scope, expect *expectation) {
	t.Helper()
	request, err := scope.reserve()
	if err != nil {
		t.Fatal(err)
	}
	request.OnError = scope.OnError
	request.NoExtend = scope.Extend != nil && !*scope.Extend
	started := time.Now()
	// The context ends with the body, as that of a request does.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reservation, err := r.client.Reserve(ctx, request)
	if err != nil {
		expect.error(err)
		return
	}
	r.server.WaitForAttempts(scope.UntilAttempts)
	if scope.Settle != nil {
		settlement, err := reservation.Settle(ctx, *scope.Settle)
		if err != nil {
			t.Fatal(err)
		}
		expect.settlement(settlement)
	}
	time.Sleep(time.Duration(scope.WaitMS) * time.Millisecond)
	cancel()
	if scope.Error {
		reservation.Abandon()
	}
	expect.error(reservation.Close())
	expect.took(time.Since(started))
	expect.reservation(reservation)
}

func (r *runner) request(t *testing.T, given *httpRequest, expect *expectation) {
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
	expect.response(response, body)
}

// attempts verifies the requests that the server received, and their ids, by which it recognises a retry.
func (r *runner) attempts(expect *expectation, required, scripted int, ownID string) {
	attempts := r.server.Attempts()
	if len(attempts) < required || len(attempts) > scripted {
		expect.failf("the server received %d attempts, not %d to %d", len(attempts), required, scripted)
	}
	if unscripted := r.server.Unscripted(); unscripted > 0 {
		expect.failf("the server received %d attempts that were not in the script", unscripted)
	}
	first := ""
	for i, attempt := range attempts {
		if attempt.Request == nil {
			continue
		}
		id := attempt.Request.RequestId
		switch {
		case id == "":
			expect.failf("attempt %d has no request id", i)
		case first != "" && id != first:
			expect.failf("attempt %d has the request id %q, not %q", i, id, first)
		case ownID != "" && id != ownID:
			expect.failf("attempt %d has the request id %q, not the call's own %q", i, id, ownID)
		case ownID == "" && first == "" && r.usedIDs[id]:
			expect.failf("the request id %q was used before", id)
		}
		first = id
		r.usedIDs[id] = true
	}
	for _, attempt := range attempts {
		if attempt.Grant != nil && attempt.Grant.Wants > 0 && !slices.Contains(r.grantIDs, attempt.Grant.GrantId) {
			r.grantIDs = append(r.grantIDs, attempt.Grant.GrantId)
		}
	}
	expect.attempts(attempts, r.grantIDs)
}

func init() {
	// One case has a configuration error, which the middleware logs.
	slog.SetDefault(slog.New(slog.DiscardHandler))
}
