package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
	"github.com/ratelimit-service/clients/go/ratelimithttp"
)

// granting grants whatever is wanted, over streams if it has them.
type granting struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
	hasStreams bool
	// breaks is whether a stream ends instead of its first response.
	breaks bool

	mutex sync.Mutex
	// checks are the requests that were checked one by one, messages those of streams, and alone those for units without a stream.
	checks   []*ratelimitv1.CheckLimitRequest
	messages []*ratelimitv1.StreamGrantRequest
	alone    []*ratelimitv1.GrantRequest
	// withdraw has streams withdraw a key.
	withdraw chan string
}

func (g *granting) CheckLimit(_ context.Context, request *ratelimitv1.CheckLimitRequest) (*ratelimitv1.CheckLimitResponse, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.checks = append(g.checks, request)
	return withinLimit(), nil
}

func withinLimit() *ratelimitv1.CheckLimitResponse {
	return &ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, Source: ratelimit.SourceStore, KeyId: "id", Limit: "burst", Remaining: 19,
		Limits: []*ratelimitv1.LimitResult{{Name: "burst", Limit: 20, Remaining: 19, Window: durationpb.New(2 * time.Second)}},
	}
}

func (g *granting) Grant(_ context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.alone = append(g.alone, request)
	return g.granted(request), nil
}

func (g *granting) granted(request *ratelimitv1.GrantRequest) *ratelimitv1.GrantResponse {
	response := &ratelimitv1.GrantResponse{GrantId: request.GrantId, Granted: request.Wants, ReturnsMade: true}
	if request.Wants > 0 {
		response.Ttl, response.ResourcePrefix, response.Decision = durationpb.New(time.Second), new(string), withinLimit()
		response.Granted += 10
	}
	return response
}

func (g *granting) StreamGrant(stream grpc.BidiStreamingServer[ratelimitv1.StreamGrantRequest, ratelimitv1.StreamGrantResponse]) error {
	if !g.hasStreams {
		return g.UnimplementedRateLimitServiceServer.StreamGrant(stream)
	}
	var sending sync.Mutex
	go func() {
		select {
		case keyID := <-g.withdraw:
			sending.Lock()
			defer sending.Unlock()
			_ = stream.Send(&ratelimitv1.StreamGrantResponse{Withdrawals: []*ratelimitv1.GrantWithdrawal{{KeyId: keyID}}})
		case <-stream.Context().Done():
		}
	}()
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		g.mutex.Lock()
		g.messages = append(g.messages, message)
		response := &ratelimitv1.StreamGrantResponse{}
		for _, request := range message.Requests {
			result := &ratelimitv1.GrantResult_Response{Response: g.granted(request)}
			response.Results = append(response.Results, &ratelimitv1.GrantResult{Result: result})
		}
		g.mutex.Unlock()
		if g.breaks {
			return status.Error(codes.Unavailable, "draining")
		}
		sending.Lock()
		err = stream.Send(response)
		sending.Unlock()
		if err != nil {
			return err
		}
	}
}

// seen is how many calls were checked, how many messages came over streams, and how many requests without one.
func (g *granting) seen() (checks, messages, alone int) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return len(g.checks), len(g.messages), len(g.alone)
}

// stillClock stands still unless it is set on, so that units neither expire nor are idle on a busy machine.
type stillClock struct{ passed atomic.Int64 }

func (c *stillClock) now() time.Time { return time.Unix(1_700_000_000, c.passed.Load()) }

// startGranting starts such a service with a client in ModeGranted, whose clock stands still.
func startGranting(t *testing.T, service *granting, options ...ratelimit.ClientOption) *ratelimit.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	service.withdraw = make(chan string)
	server := grpc.NewServer()
	ratelimitv1.RegisterRateLimitServiceServer(server, service)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	options = append([]ratelimit.ClientOption{
		ratelimit.WithMode(ratelimit.ModeGranted), ratelimit.WithDeadline(scripted.SlowMachine), ratelimit.WithConnections(1),
		ratelimit.WithClock((&stillClock{}).now),
	}, options...)
	client, err := ratelimit.NewClient(listener.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func checkTimes(t *testing.T, client *ratelimit.Client, request ratelimit.CheckRequest, times int) (last ratelimit.Decision) {
	t.Helper()
	for range times {
		decision, err := client.Check(t.Context(), request)
		if err != nil || !decision.Allowed || decision.Failure != nil {
			t.Fatalf("got %+v, %v", decision, err)
		}
		last = decision
	}
	return last
}

// One option has a client decide by units, with the same decision; all that is no plain check goes to the service.
func TestOneOptionTurnsChecksIntoGrants(t *testing.T) {
	for _, hasStreams := range []bool{true, false} {
		service := &granting{hasStreams: hasStreams}
		client := startGranting(t, service)
		if decision := checkTimes(t, client, order, 1); decision.Source != ratelimit.SourceStore {
			t.Errorf("the first call of a key was decided by %v", decision.Source)
		}
		decision := checkTimes(t, client, order, 9)
		if decision.Source != ratelimit.SourceGrant || decision.Origin != ratelimit.OriginGrant || decision.Limit != "burst" {
			t.Errorf("got %+v", decision)
		}
		checks, messages, alone := service.seen()
		if checks != 1 || messages+alone != 1 || (messages == 1) != hasStreams {
			t.Errorf("the service has %d checks, %d messages, %d requests", checks, messages, alone)
		}
		ctx := t.Context()
		withID, costly := order, order
		withID.RequestID, costly.Cost = "order-1", 3
		_, err1 := client.Check(ctx, withID)
		_, err2 := client.Peek(ctx, order)
		_, err3 := client.Charge(ctx, costly)
		reservation, err4 := client.Reserve(ctx, ratelimit.ReserveRequest{APIKey: order.APIKey, Resource: order.Resource, Hold: time.Second})
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		_ = reservation.Close()
		if checks, messages, alone := service.seen(); checks != 5 || messages+alone != 1 {
			t.Errorf("the service has %d checks, %d messages, %d requests", checks, messages, alone)
		}
		if counts := client.Grants(); counts.Allowed != 8 || counts.Waited != 2 || counts.Held != 11-9 || counts.Requests != 1 {
			t.Errorf("counted %+v", counts)
		}
	}
}

// The middleware works with it as it is.
func TestMiddlewareWithGrants(t *testing.T) {
	service := &granting{hasStreams: true}
	client := startGranting(t, service)
	site := httptest.NewServer(ratelimithttp.Middleware(client)(http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })))
	defer site.Close()
	for range 8 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, site.URL+"/v1/orders", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("x-api-key", "rlk_test_1_x")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || response.Header.Get("RateLimit") != `"burst";r=19;t=0` {
			t.Errorf("got %d, %v", response.StatusCode, response.Header)
		}
	}
	if checks, messages, _ := service.seen(); checks != 1 || messages != 1 {
		t.Errorf("the service has %d checks, %d messages", checks, messages)
	}
}

// One message has the requests of many keys.
func TestAMessageHasTheRequestsOfManyKeys(t *testing.T) {
	service := &granting{hasStreams: true}
	client := startGranting(t, service)
	for i := range 200 {
		checkTimes(t, client, ratelimit.CheckRequest{APIKey: fmt.Sprint("key", i), Resource: "r"}, 6)
	}
	_, before, _ := service.seen()
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	service.mutex.Lock()
	defer service.mutex.Unlock()
	returned := map[string]bool{}
	for _, message := range service.messages {
		for _, request := range message.Requests {
			if request.Wants == 0 && len(request.Returns) == 1 {
				returned[request.GetApiKey()] = true
			}
		}
	}
	if last := len(service.messages) - before; len(returned) != 200 || last > 20 {
		t.Errorf("units of %d keys were returned, the last of them by %d messages", len(returned), last)
	}
}

// A key that a stream withdraws has nothing more spent, and asks anew.
func TestAStreamWithdrawsAKey(t *testing.T) {
	service := &granting{hasStreams: true}
	client := startGranting(t, service)
	checkTimes(t, client, order, 3)
	service.withdraw <- "id"
	for ends := time.Now().Add(scripted.SlowMachine); client.Grants().Returned == 0 && time.Now().Before(ends); {
		time.Sleep(time.Millisecond)
	}
	if counts := client.Grants(); counts.Held != 0 || counts.Returned != 9 {
		t.Errorf("counted %+v", counts)
	}
	before := client.Grants().Requests
	checkTimes(t, client, order, 1)
	if after := client.Grants().Requests; after != before+1 {
		t.Errorf("%d requests, and then %d", before, after)
	}
}

// What a stream has not responded to when it breaks is sent again, and is the same grant.
func TestAStreamThatBreaks(t *testing.T) {
	service := &granting{hasStreams: true, breaks: true}
	client := startGranting(t, service)
	checkTimes(t, client, order, 4)
	service.mutex.Lock()
	defer service.mutex.Unlock()
	if len(service.messages) != 1 || len(service.alone) != 1 || service.messages[0].Requests[0].GrantId != service.alone[0].GrantId {
		t.Errorf("sent %v, and then %v", service.messages, service.alone)
	}
}

// When the service is away, what is held is spent, and then calls fail open or closed as ever.
func TestGrantsOfAServiceThatIsAway(t *testing.T) {
	for _, failOpen := range []bool{true, false} {
		clock := &stillClock{}
		server, client := start(t, ratelimit.WithMode(ratelimit.ModeGranted), ratelimit.WithFailOpen(failOpen),
			ratelimit.WithClock(clock.now), ratelimit.WithOnFailure(func(*ratelimit.Error) {}))
		more := (&granting{}).granted(&ratelimitv1.GrantRequest{Wants: 1})
		server.Script(allow, scripted.Respond(more).To("Grant"))
		checkTimes(t, client, order, 2)
		server.Stop()
		checkTimes(t, client, order, 9)
		clock.passed.Store(int64(time.Second))
		for range 2 {
			decision, err := client.Check(t.Context(), order)
			if err != nil || decision.Allowed != failOpen || decision.Origin != ratelimit.OriginFallback {
				t.Errorf("got %+v, %v", decision, err)
			}
		}
		if failures := client.Failures(); failures.Open+failures.Closed != 2 {
			t.Errorf("counted %+v", failures)
		}
	}
}

// A token that may not ask for units is an error, and never fails open.
func TestATokenThatMayNotAsk(t *testing.T) {
	server, client := start(t, ratelimit.WithMode(ratelimit.ModeGranted), ratelimit.WithClock((&stillClock{}).now))
	server.Script(allow, scripted.Fail(status.New(codes.PermissionDenied, "the call needs a token of role gateway")).To("Grant"))
	checkTimes(t, client, order, 1)
	var refused *ratelimit.Error
	if _, err := client.Check(t.Context(), order); !errors.As(err, &refused) || refused.Code != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	if failures := client.Failures(); failures != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", failures)
	}
}

// grantMetrics adds up what it gets.
type grantMetrics struct {
	mutex   sync.Mutex
	decided int
	sum     ratelimit.Grants
}

func (m *grantMetrics) Decided(ratelimit.Decision, time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.decided++
}

func (m *grantMetrics) Failed(*ratelimit.Error, string) {}

func (m *grantMetrics) Granted(change ratelimit.Grants) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.sum.Allowed += change.Allowed
	m.sum.Waited += change.Waited
	m.sum.Granted += change.Granted
	m.sum.Returned += change.Returned
	m.sum.Requests += change.Requests
	m.sum.Held += change.Held
}

// Close returns all units, reports the last numbers, and leaves no goroutine.
func TestCloseWithGrants(t *testing.T) {
	metrics := &grantMetrics{}
	client := startGranting(t, &granting{hasStreams: true}, ratelimit.WithMetrics(metrics))
	checkTimes(t, client, order, 5)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if want := (ratelimit.Grants{Allowed: 3, Waited: 2, Granted: 11, Returned: 7, Requests: 2}); metrics.sum != want || metrics.decided != 2 {
		t.Errorf("the metrics have %+v, and %d decisions", metrics.sum, metrics.decided)
	}
	var refused *ratelimit.Error
	if _, err := client.Check(t.Context(), order); !errors.As(err, &refused) || refused.Code != codes.FailedPrecondition {
		t.Errorf("got %v", err)
	}
	if left := goroutinesOf("ratelimit.(*grant"); left != "" {
		t.Errorf("there is still\n%s", left)
	}
}

// goroutinesOf is the stacks of goroutines that have a text in them, of other tests too.
func goroutinesOf(text string) string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, text) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// Neither a mode nor what to do near a limit can be another one.
func TestModesThatThereAreNot(t *testing.T) {
	for _, option := range []ratelimit.ClientOption{ratelimit.WithMode("grants"), ratelimit.WithNearLimit("")} {
		if _, err := ratelimit.NewClient("localhost:50051", option); err == nil || !strings.Contains(err.Error(), "it must be") {
			t.Errorf("got %v", err)
		}
	}
}

// A decision by a unit allocates nothing.
func TestADecisionByAUnitAllocatesNothing(t *testing.T) {
	client := startGranting(t, &granting{hasStreams: true})
	checkTimes(t, client, order, 2)
	ctx := t.Context()
	if allocated := testing.AllocsPerRun(5, func() { _, _ = client.Check(ctx, order) }); allocated > 0 {
		t.Errorf("allocated %v times", allocated)
	}
}
