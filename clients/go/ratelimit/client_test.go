package ratelimit_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

var (
	allow = scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.WithinLimit, Source: ratelimit.SourceStore,
	})
	draining = scripted.Fail(status.New(codes.Unavailable, "draining"))
	order    = ratelimit.Request{APIKey: "rlk_test_1_x", Resource: "orders.create"}
)

func start(t *testing.T, options ...ratelimit.Option) (*scripted.Server, *ratelimit.Client) {
	t.Helper()
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client, err := ratelimit.New(server.Address(), append([]ratelimit.Option{ratelimit.WithDeadline(10 * time.Second)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return server, client
}

// Calls are spread evenly over as many connections as the option says.
func TestCallsAreSpreadOverTheConnections(t *testing.T) {
	server, client := start(t, ratelimit.WithConnections(3))
	server.Script(allow, allow, allow, allow, allow, allow)
	for range 6 {
		if _, err := client.Check(t.Context(), order); err != nil {
			t.Fatal(err)
		}
	}
	calls := map[string]int{}
	for _, attempt := range server.Attempts() {
		calls[attempt.Peer]++
	}
	if len(calls) != 3 {
		t.Errorf("the calls came over %d connections, not 3", len(calls))
	}
	for peer, count := range calls {
		if count != 2 {
			t.Errorf("%d calls came from %s, not 2", count, peer)
		}
	}
}

// A retry goes over another connection, since the first one's server may be the one that is going away.
func TestARetryGoesOverAnotherConnection(t *testing.T) {
	server, client := start(t, ratelimit.WithConnections(2))
	server.Script(draining, allow)
	decision, err := client.Check(t.Context(), order)
	if err != nil || !decision.Allowed || decision.Origin != ratelimit.FromService {
		t.Fatalf("got %+v, %v", decision, err)
	}
	if seen := server.Attempts(); seen[0].Peer == seen[1].Peer {
		t.Errorf("both attempts came from %s", seen[0].Peer)
	}
}

// The token is sent with each call, and only if there is one.
func TestTheTokenIsSent(t *testing.T) {
	server, client := start(t, ratelimit.WithToken("secret"))
	server.Script(allow)
	if _, err := client.Check(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if got := server.Attempts()[0].Metadata.Get("authorization"); len(got) != 1 || got[0] != "Bearer secret" {
		t.Errorf("authorization is %q", got)
	}
	server, client = start(t)
	server.Script(allow)
	if _, err := client.Check(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if got := server.Attempts()[0].Metadata.Get("authorization"); len(got) != 0 {
		t.Errorf("authorization is %q", got)
	}
}

// With nobody listening, a call is decided by the option at once, not after the deadline.
func TestNobodyListening(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	_ = listener.Close()
	client, err := ratelimit.New(target, ratelimit.WithDeadline(30*time.Second), ratelimit.WithFailOpen(false))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	began := time.Now()
	decision, err := client.Check(t.Context(), order)
	if err != nil || decision.Allowed || decision.Reason != ratelimit.DegradedDenied || decision.Failure == nil {
		t.Errorf("got %+v, %v", decision, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := client.Failures(); got != (ratelimit.Failures{Closed: 1}) {
		t.Errorf("counted %+v", got)
	}
}

// A caller that cancels gets the context's error, and nothing is counted as a fault of the service.
func TestACallerThatCancelsIsNotAFault(t *testing.T) {
	server, client := start(t)
	server.Script(scripted.Hang())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	if decision, err := client.Check(ctx, order); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", decision, err)
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
}

// A caller cannot get past a limit by a deadline that is too short for the service to answer in.
func TestACallersShortDeadlineDoesNotFailOpen(t *testing.T) {
	server, client := start(t)
	for _, answer := range []scripted.Answer{
		scripted.Hang(), scripted.Fail(status.New(codes.DeadlineExceeded, "2 ms are left")),
		scripted.Fail(status.New(codes.Canceled, "the deadline has passed")),
	} {
		server.Script(answer)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		decision, err := client.Check(ctx, order)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || decision.Allowed {
			t.Errorf("got %+v, %v", decision, err)
		}
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
}

// A stray byte, which the encoder would call INTERNAL, is the caller's fault and never fails open.
func TestBytesThatAreNotTextAreRaised(t *testing.T) {
	server, client := start(t)
	server.Script()
	for field, request := range map[string]ratelimit.Request{
		"api_key":    {APIKey: "\xff"},
		"key_id":     {KeyID: "\xff"},
		"resource":   {APIKey: "k", Resource: "GET /\xff"},
		"request_id": {APIKey: "k", RequestID: "\xff"},
	} {
		decision, err := client.Check(t.Context(), request)
		var told *ratelimit.Error
		if !errors.As(err, &told) || told.Code != codes.InvalidArgument || told.Field != field || decision.Allowed {
			t.Errorf("%s: got %+v, %v", field, decision, err)
		}
	}
	if seen := server.Attempts(); len(seen) != 0 {
		t.Errorf("the server saw %d attempts", len(seen))
	}
}

// A remembered denial is for one key, one resource and one cost, and no two calls are taken for each other.
func TestADenialIsForItsOwnCallOnly(t *testing.T) {
	now := time.Now()
	server, client := start(t, ratelimit.WithClock(func() time.Time { return now }))
	deny := scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Reason: ratelimit.OverLimit, RetryAfter: durationpb.New(time.Second),
	})
	server.Script(deny)
	first := ratelimit.Request{APIKey: "ab", Resource: "c"}
	if _, err := client.Check(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	others := []ratelimit.Request{
		{APIKey: "a", Resource: "bc"}, {KeyID: "ab", Resource: "c"}, {APIKey: "ab", Resource: "c", Cost: 2},
		{APIKey: "ab", Resource: "d"}, {APIKey: "abc"},
	}
	for _, other := range others {
		server.Script(allow)
		if decision, err := client.Check(t.Context(), other); err != nil || decision.Origin != ratelimit.FromService {
			t.Errorf("%+v: got %+v, %v", other, decision, err)
		}
	}
	server.Script()
	if decision, err := client.Check(t.Context(), first); err != nil || decision.Origin != ratelimit.FromCache {
		t.Errorf("got %+v, %v", decision, err)
	}
}

// The generated stubs work over a client's connections, for what the client itself has no method for.
func TestStubsUseTheConnections(t *testing.T) {
	server, client := start(t)
	server.Script(allow)
	stub := ratelimitv1.NewRateLimitServiceClient(client.Connection())
	answer, err := stub.CheckLimit(t.Context(), &ratelimitv1.CheckLimitRequest{})
	if err != nil || !answer.Allowed {
		t.Errorf("got %v, %v", answer, err)
	}
	stream, err := stub.StreamCheckLimit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

// An option that is out of bounds is told with its value.
func TestOptionsOutOfBounds(t *testing.T) {
	for words, option := range map[string]ratelimit.Option{
		"the deadline is 0s":        ratelimit.WithDeadline(0),
		"connections is 0":          ratelimit.WithConnections(0),
		"the denial cache is of -1": ratelimit.WithDenialCache(-1, time.Minute),
	} {
		client, err := ratelimit.New("localhost:1", option)
		if client != nil || err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, not one with %q", err, words)
		}
	}
}

// A server that renews its connections, as ours does, is not noticed.
func TestAServerThatRenewsItsConnections(t *testing.T) {
	server, err := scripted.Start(grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 20 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	client, err := ratelimit.New(server.Address(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	peers := map[string]bool{}
	for range 100 {
		server.Script(allow)
		decision, err := client.Check(t.Context(), order)
		if err != nil || decision.Origin != ratelimit.FromService {
			t.Fatalf("got %+v, %v", decision, err)
		}
		peers[server.Attempts()[0].Peer] = true
		time.Sleep(2 * time.Millisecond)
	}
	if len(peers) <= 4 {
		t.Errorf("the calls came over %d connections only: none was renewed", len(peers))
	}
}
