package ratelimit_test

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

var (
	allow = scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, Source: ratelimit.SourceStore,
	})
	unavailable = scripted.Fail(status.New(codes.Unavailable, "draining"))
	order       = ratelimit.CheckRequest{APIKey: "rlk_test_1_x", Resource: "orders.create"}
)

func start(t *testing.T, options ...ratelimit.ClientOption) (*scripted.Server, *ratelimit.Client) {
	t.Helper()
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	client, err := ratelimit.NewClient(server.Address(), append([]ratelimit.ClientOption{ratelimit.WithDeadline(10 * time.Second)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return server, client
}

// Calls rotate through as many connections as the option has.
func TestCallsRotateThroughTheConnections(t *testing.T) {
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

// A retry goes over another connection, since the server of the first one may be shutting down.
func TestARetryGoesOverAnotherConnection(t *testing.T) {
	server, client := start(t, ratelimit.WithConnections(2))
	server.Script(unavailable, allow)
	decision, err := client.Check(t.Context(), order)
	if err != nil || !decision.Allowed || decision.Origin != ratelimit.OriginService {
		t.Fatalf("got %+v, %v", decision, err)
	}
	if attempts := server.Attempts(); attempts[0].Peer == attempts[1].Peer {
		t.Errorf("both attempts came from %s", attempts[0].Peer)
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

// What the context has for the caller's own outgoing calls is not sent, and cannot fail a call before it is.
func TestTheMetadataOfTheCallerIsNotSent(t *testing.T) {
	server, client := start(t, ratelimit.WithToken("secret"), ratelimit.WithConnections(1))
	extended := scripted.Respond(&ratelimitv1.ExtendHoldResponse{}).To("ExtendHold")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer the caller's", "cookie", "session=1", "x-note", "\xff")
	server.Script(allow, allow, reserved, extended, settled)
	if err := client.Ready(ctx); err != nil {
		t.Error(err)
	}
	if decision, err := client.Check(ctx, order); err != nil || decision.Origin != ratelimit.OriginService {
		t.Errorf("got %+v, %v", decision, err)
	}
	reservation, err := client.Reserve(ctx, answer)
	if err != nil {
		t.Fatal(err)
	}
	if isExtended, err := reservation.Extend(ctx, time.Minute); !isExtended || err != nil {
		t.Errorf("got %v, %v", isExtended, err)
	}
	if err := reservation.Close(); err != nil {
		t.Error(err)
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
	attempts := server.Attempts()
	if len(attempts) != 5 {
		t.Errorf("the server received %d attempts, not 5", len(attempts))
	}
	for i, attempt := range attempts {
		got := attempt.Metadata
		if len(got.Get("cookie")) != 0 || len(got.Get("x-note")) != 0 || !slices.Equal(got.Get("authorization"), []string{"Bearer secret"}) {
			t.Errorf("attempt %d has the metadata %v", i, got)
		}
	}
	server, client = start(t)
	server.Script(allow)
	if _, err := client.Check(ctx, order); err != nil {
		t.Error(err)
	}
	if got := server.Attempts()[0].Metadata.Get("authorization"); len(got) != 0 {
		t.Errorf("without a token, authorization is %q", got)
	}
}

// A call in flight that Close ends does not fail open, and neither does one that waits for the first connection.
func TestClosingTheClientEndsCallsInFlight(t *testing.T) {
	server, client := start(t)
	never, err := ratelimit.NewClient(listening(t).Addr().String(), ratelimit.WithConnectTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	server.Script(scripted.Hang())
	ended := make(chan error)
	for _, one := range []*ratelimit.Client{client, never} {
		go func() {
			_, err := one.Check(t.Context(), order)
			ended <- err
		}()
	}
	server.WaitForAttempts(1)
	for _, one := range []*ratelimit.Client{client, never} {
		_ = one.Close()
		var closed *ratelimit.Error
		if err := <-ended; !errors.As(err, &closed) || closed.Code != codes.FailedPrecondition || closed.Message != "the client is closed" {
			t.Errorf("got %v", err)
		}
		if got := one.Failures(); got != (ratelimit.Failures{}) {
			t.Errorf("counted %+v", got)
		}
	}
}

// A refused connection is decided by the option immediately, not after the deadline.
func TestARefusedConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	_ = listener.Close()
	client, err := ratelimit.NewClient(target, ratelimit.WithDeadline(30*time.Second), ratelimit.WithFailOpen(false))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	started := time.Now()
	decision, err := client.Check(t.Context(), order)
	if err != nil || decision.Allowed || decision.Reason != ratelimit.ReasonDegradedDenied || decision.Failure == nil {
		t.Errorf("got %+v, %v", decision, err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := client.Failures(); got != (ratelimit.Failures{Closed: 1}) {
		t.Errorf("counted %+v", got)
	}
}

// A caller that cancels gets the context's error, and no failure is counted.
func TestACancelledCallIsNotAFailure(t *testing.T) {
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

// A caller cannot bypass a limit by a deadline that is too short for a response.
func TestACallersShortDeadlineDoesNotFailOpen(t *testing.T) {
	server, client := start(t)
	for _, response := range []scripted.Response{
		scripted.Hang(), scripted.Fail(status.New(codes.DeadlineExceeded, "2 ms are left")),
		scripted.Fail(status.New(codes.Canceled, "the deadline has passed")),
	} {
		server.Script(response)
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

// Invalid UTF-8, which the encoder would report as INTERNAL, is an error of the caller and never fails open.
func TestInvalidUTF8IsReturned(t *testing.T) {
	server, client := start(t)
	server.Script()
	for field, request := range map[string]ratelimit.CheckRequest{
		"api_key":    {APIKey: "\xff"},
		"key_id":     {KeyID: "\xff"},
		"resource":   {APIKey: "k", Resource: "GET /\xff"},
		"request_id": {APIKey: "k", RequestID: "\xff"},
	} {
		decision, err := client.Check(t.Context(), request)
		var invalid *ratelimit.Error
		if !errors.As(err, &invalid) || invalid.Code != codes.InvalidArgument || invalid.Field != field || decision.Allowed {
			t.Errorf("%s: got %+v, %v", field, decision, err)
		}
	}
	if attempts := server.Attempts(); len(attempts) != 0 {
		t.Errorf("the server received %d attempts", len(attempts))
	}
}

// A denial is cached for one key, one resource and one cost, and no two calls are confused.
func TestADenialIsForItsOwnCallOnly(t *testing.T) {
	now := time.Now()
	server, client := start(t, ratelimit.WithClock(func() time.Time { return now }))
	deny := scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Reason: ratelimit.ReasonOverLimit, RetryAfter: durationpb.New(time.Second),
	})
	server.Script(deny)
	first := ratelimit.CheckRequest{APIKey: "ab", Resource: "c"}
	if _, err := client.Check(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	others := []ratelimit.CheckRequest{
		{APIKey: "a", Resource: "bc"}, {KeyID: "ab", Resource: "c"}, {APIKey: "ab", Resource: "c", Cost: 2},
		{APIKey: "ab", Resource: "d"}, {APIKey: "abc"},
	}
	for _, other := range others {
		server.Script(allow)
		if decision, err := client.Check(t.Context(), other); err != nil || decision.Origin != ratelimit.OriginService {
			t.Errorf("%+v: got %+v, %v", other, decision, err)
		}
	}
	server.Script()
	if decision, err := client.Check(t.Context(), first); err != nil || decision.Origin != ratelimit.OriginCache {
		t.Errorf("got %+v, %v", decision, err)
	}
}

// The generated stubs can use a client's connections, for what the client has no method for.
func TestStubsUseTheConnections(t *testing.T) {
	server, client := start(t)
	server.Script(allow)
	stub := ratelimitv1.NewRateLimitServiceClient(client.Connection())
	response, err := stub.CheckLimit(t.Context(), &ratelimitv1.CheckLimitRequest{})
	if err != nil || !response.Allowed {
		t.Errorf("got %v, %v", response, err)
	}
	stream, err := stub.StreamCheckLimit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

// The error for an option out of bounds has its name and value.
func TestOptionsOutOfBounds(t *testing.T) {
	for message, option := range map[string]ratelimit.ClientOption{
		"deadline is 0s":         ratelimit.WithDeadline(0),
		"connectTimeout is -1ns": ratelimit.WithConnectTimeout(-1),
		"metrics is nil":         ratelimit.WithMetrics(nil),
		"connections is 0":       ratelimit.WithConnections(0),
		"denialCacheSize is -1":  ratelimit.WithDenialCacheSize(-1),
		"denialCacheMaxAge is 0": ratelimit.WithDenialCacheMaxAge(0),
	} {
		client, err := ratelimit.NewClient("localhost:1", option)
		if client != nil || err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("got %v, not one with %q", err, message)
		}
	}
}

// A server that closes its connections gracefully (GOAWAY), as ours does, loses no call.
func TestConnectionsAreClosedGracefully(t *testing.T) {
	server, err := scripted.Start(grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 20 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	client, err := ratelimit.NewClient(server.Address(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	peers := map[string]bool{}
	for range 100 {
		server.Script(allow)
		decision, err := client.Check(t.Context(), order)
		if err != nil || decision.Origin != ratelimit.OriginService {
			t.Fatalf("got %+v, %v", decision, err)
		}
		peers[server.Attempts()[0].Peer] = true
		time.Sleep(2 * time.Millisecond)
	}
	if len(peers) <= 4 {
		t.Errorf("the calls came over only %d connections: none was replaced", len(peers))
	}
}

// A peek is sent as a cost of 0, and a check of no cost as a cost of 1.
func TestTheCost(t *testing.T) {
	server, client := start(t)
	server.Script(allow, allow, allow)
	for _, call := range []func() (ratelimit.Decision, error){
		func() (ratelimit.Decision, error) { return client.Peek(t.Context(), order) },
		func() (ratelimit.Decision, error) { return client.Check(t.Context(), order) },
		func() (ratelimit.Decision, error) {
			return client.Check(t.Context(), ratelimit.CheckRequest{APIKey: "k", Cost: 7})
		},
	} {
		if _, err := call(); err != nil {
			t.Fatal(err)
		}
	}
	attempts := server.Attempts()
	if first := attempts[0].Request; first.Cost == nil || *first.Cost != 0 {
		t.Errorf("a peek sent %v", first)
	}
	if second := attempts[1].Request; second.Cost != nil && *second.Cost != 1 {
		t.Errorf("a check without a cost sent %v", second)
	}
	if third := attempts[2].Request; third.GetCost() != 7 {
		t.Errorf("a check at a cost of 7 sent %v", third)
	}
}

// Every cost of 64 bits is sent unchanged: the service bounds it.
func TestTheLargestCostIsSent(t *testing.T) {
	server, client := start(t)
	server.Script(allow)
	if _, err := client.Check(t.Context(), ratelimit.CheckRequest{APIKey: "k", Cost: math.MaxUint64}); err != nil {
		t.Fatal(err)
	}
	if cost := server.Attempts()[0].Request.GetCost(); cost != math.MaxUint64 {
		t.Errorf("the service received the cost %d", cost)
	}
}

// The callback and the decision have the same error of the service.
func TestTheErrorOfAFailure(t *testing.T) {
	var failures []*ratelimit.Error
	server, client := start(t, ratelimit.WithOnFailure(func(failure *ratelimit.Error) { failures = append(failures, failure) }))
	server.Script(scripted.Fail(status.New(codes.Internal, "broken")))
	decision, err := client.Check(t.Context(), order)
	if err != nil || len(failures) != 1 || decision.Failure != failures[0] || failures[0].Code != codes.Internal {
		t.Errorf("got %+v, %v, %v", decision, err, failures)
	}
}

// Waiting for connections ends when they are ready, and when the context ends.
func TestWaitUntilConnected(t *testing.T) {
	_, client := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := client.WaitUntilConnected(ctx); err != nil {
		t.Error(err)
	}
	unreachable, err := ratelimit.NewClient("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer unreachable.Close()
	short, cancelShort := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancelShort()
	if err := unreachable.WaitUntilConnected(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
