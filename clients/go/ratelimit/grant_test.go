//go:build go1.25

package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// asked is a service that is asked for units: each request is kept, and gets the next response, or what it wants if there is none.
type asked struct {
	book *grantBook
	// takes is how long a response takes.
	takes    time.Duration
	mutex    sync.Mutex
	requests []*ratelimitv1.GrantRequest
	// responses are GrantResponses or errors, for requests that want units, and returns for those that only return some.
	responses, returns []any
}

// ask starts a book, whose first key is known already.
func ask(t *testing.T, responses ...any) *asked {
	t.Helper()
	service := &asked{responses: responses}
	service.book = newTestBook(t, service.grant)
	service.knows("k")
	return service
}

// knows has a key be one that was called before.
func (a *asked) knows(key string) {
	request := CheckRequest{APIKey: key, Resource: "r", Cost: 1}
	_, _, _ = a.book.decide(context.Background(), &request)
}

func (a *asked) grant(ctx context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	a.mutex.Lock()
	a.requests = append(a.requests, request)
	responses, next := &a.responses, any(granted(int(request.Wants), ""))
	if request.Wants == 0 {
		responses, next = &a.returns, &ratelimitv1.GrantResponse{ReturnsMade: true}
	}
	if len(*responses) > 0 {
		next, *responses = (*responses)[0], (*responses)[1:]
	}
	takes := a.takes
	a.mutex.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err, failed := next.(error); failed {
		return nil, err
	}
	response := next.(*ratelimitv1.GrantResponse)
	response.GrantId = request.GrantId
	return response, nil
}

// then sets the next responses.
func (a *asked) then(responses ...any) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.responses = responses
}

// thenOfReturns is the same for requests that only return some.
func (a *asked) thenOfReturns(responses ...any) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.returns = responses
}

// seen is the requests since it was called last, once all is at rest.
func (a *asked) seen() []*ratelimitv1.GrantRequest {
	synctest.Wait()
	a.mutex.Lock()
	defer a.mutex.Unlock()
	requests := a.requests
	a.requests = nil
	return requests
}

// isQuiet is whether it was not asked for anything since seen.
func (a *asked) isQuiet() bool {
	synctest.Wait()
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return len(a.requests) == 0
}

// call decides a call: how is alone if it is to be checked by itself.
func (a *asked) call(resource string) (Decision, how, error) {
	return a.callOf(context.Background(), CheckRequest{APIKey: "k", Resource: resource, Cost: 1})
}

func (a *asked) callOf(ctx context.Context, request CheckRequest) (decision Decision, how how, err error) {
	if a.book.spend(&request, &decision) {
		return decision, atOnce, nil
	}
	return a.book.decide(ctx, &request)
}

// calls is how many of some calls were allowed, and how many denied.
func (a *asked) calls(t *testing.T, count int, resource string) (allowed, denied int) {
	t.Helper()
	for range count {
		decision, how, err := a.call(resource)
		switch {
		case err != nil || how == alone:
			t.Fatalf("got %v, %v", how, err)
		case decision.Allowed:
			allowed++
		default:
			denied++
		}
	}
	return allowed, denied
}

// granted is a response with so many units for resources that begin with a prefix, for a second. "-" is for the one alone.
func granted(units int, prefix string) *ratelimitv1.GrantResponse {
	response := &ratelimitv1.GrantResponse{
		Granted: uint32(units), Ttl: durationpb.New(time.Second), ReturnsMade: true, ResourcePrefix: &prefix,
		Decision: &ratelimitv1.CheckLimitResponse{
			Allowed: true, Reason: ReasonWithinLimit, Source: SourceStore, KeyId: "id", Limit: "burst", Remaining: 100,
			Limits: []*ratelimitv1.LimitResult{{
				Name: "burst", Limit: 200, Remaining: 100, Window: durationpb.New(10 * time.Second), ResetAfter: durationpb.New(5 * time.Second),
			}},
		},
	}
	if prefix == "-" {
		response.ResourcePrefix = nil
	}
	return response
}

// refused is a response without units, for that long.
func refused(reason Reason, wait time.Duration) *ratelimitv1.GrantResponse {
	return &ratelimitv1.GrantResponse{
		AskAgainAfter: durationpb.New(wait), ReturnsMade: true,
		Decision: &ratelimitv1.CheckLimitResponse{Reason: reason, Source: SourceStore, Limit: "burst", RetryAfter: durationpb.New(wait)},
	}
}

func perCall(why ratelimitv1.GrantResponse_PerCall, wait time.Duration) *ratelimitv1.GrantResponse {
	return &ratelimitv1.GrantResponse{AskAgainAfter: durationpb.New(wait), ReturnsMade: true, PerCall: why}
}

// inBubble runs a test with a clock that only advances while everything waits.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// A key is checked at first, and asks for units with its second call.
func TestTheSecondCallAsksForUnits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t)
		service.seen()
		if _, how, _ := service.callOf(t.Context(), CheckRequest{APIKey: "new", Resource: "r", Cost: 1}); how != alone {
			t.Errorf("the first call was decided: %v", how)
		}
		if requests := service.seen(); len(requests) != 0 {
			t.Errorf("the first call asked for %v", requests)
		}
		service.then(granted(2, ""))
		decision, how, err := service.callOf(t.Context(), CheckRequest{APIKey: "new", Resource: "r", Cost: 1})
		if how != afterWaiting || err != nil || !decision.Allowed || decision.Source != SourceGrant || decision.Origin != OriginGrant {
			t.Errorf("got %+v, %v, %v", decision, how, err)
		}
		if decision.KeyID != "id" || decision.Limit != "burst" || decision.Remaining != 100 || len(decision.Limits) != 1 {
			t.Errorf("got %+v", decision)
		}
		requests := service.seen()
		if len(requests) != 1 || requests[0].GetApiKey() != "new" || requests[0].Resource != "r" || requests[0].Wants != 1 || len(requests[0].GrantId) != 32 {
			t.Errorf("asked for %v", requests)
		}
		if decision, how, _ := service.callOf(t.Context(), CheckRequest{APIKey: "new", Resource: "r", Cost: 1}); how != atOnce || !decision.Allowed {
			t.Errorf("the unit that is left was not spent: %+v, %v", decision, how)
		}
	})
}

// Units may be spent until their ttl after the request was sent, however long the response took, and are returned then.
func TestUnitsExpireByTheTimeBeforeTheRequestWasSent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(10, ""))
		service.book.patience = func() time.Duration { return time.Minute }
		service.takes = 400 * time.Millisecond
		service.calls(t, 1, "r")
		service.takes = 0
		time.Sleep(599 * time.Millisecond)
		if _, how, _ := service.call("r"); how != atOnce {
			t.Errorf("no unit was spent: %v", how)
		}
		first := service.seen()[0]
		time.Sleep(time.Millisecond)
		service.then(granted(10, ""))
		if _, how, _ := service.call("r"); how != afterWaiting {
			t.Errorf("a unit was spent that has expired: %v", how)
		}
		requests := service.seen()
		if returns := requests[0].Returns; len(returns) != 1 || returns[0].GrantId != first.GrantId || returns[0].Unused != 8 {
			t.Errorf("returned %v", returns)
		}
		if counts := service.book.grants(); counts.Expired != 8 || counts.Returned != 0 || counts.Granted != 20 || counts.Held != 9 {
			t.Errorf("counted %+v", counts)
		}
	})
}

// One request is in inFlight for a key; those that wait are served in the order in which they came.
func TestCallsThatWaitAreServedInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, slices.Repeat([]any{granted(1, "")}, 6)...)
		service.takes = 6 * time.Millisecond
		order := make(chan int, 6)
		for i := range 6 {
			time.Sleep(time.Millisecond)
			go func() {
				if allowed, _ := service.calls(t, 1, "r"); allowed == 1 {
					order <- i
				}
			}()
		}
		time.Sleep(100 * time.Millisecond)
		requests := service.seen()
		if len(requests) != 6 || requests[0].Wants != 1 || requests[1].Wants < 5 || requests[2].Wants < 4 {
			t.Errorf("asked for %v", requests)
		}
		close(order)
		var served []int
		for i := range order {
			served = append(served, i)
		}
		if !slices.Equal(served, []int{0, 1, 2, 3, 4, 5}) {
			t.Errorf("served %v", served)
		}
	})
}

// More is asked for in the background while units are left, so that no call waits.
func TestMoreIsAskedForBeforeUnitsRunOut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t)
		service.takes = time.Millisecond
		waited := 0
		for i := range 500 {
			_, how, err := service.call("r")
			if err != nil || how == alone {
				t.Fatalf("got %v, %v", how, err)
			}
			if i == 200 {
				waited = 0
				service.seen()
			}
			if how == afterWaiting {
				waited++
			}
			time.Sleep(10 * time.Millisecond)
		}
		if requests := service.seen(); waited > 0 || len(requests) > 8 {
			t.Errorf("%d calls of 300 waited, with %d requests", waited, len(requests))
		}
	})
}

// Units that nobody spends any more are returned before they expire, with what was spent by resource.
func TestIdleUnitsAreReturned(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t)
		var requests []*ratelimitv1.GrantRequest
		calls := uint64(0)
		for calls < 100 || service.isQuiet() { // until more were granted just now
			requests = append(requests, service.seen()...)
			service.calls(t, 2, "orders.create")
			service.calls(t, 1, "orders.list")
			time.Sleep(10 * time.Millisecond)
			calls++
		}
		requests = append(requests, service.seen()...)
		time.Sleep(300 * time.Millisecond)
		idle := service.seen()
		if len(idle) != 1 || idle[0].Wants != 0 || idle[0].Returns[len(idle[0].Returns)-1].Unused == 0 {
			t.Fatalf("sent %v", idle)
		}
		reported := map[string]uint64{}
		for _, request := range append(requests, idle...) {
			for _, back := range request.Returns {
				for _, spent := range back.Spent {
					if spent.Allowed != spent.Cost {
						t.Errorf("reported %v", spent)
					}
					reported[spent.Resource] += spent.Allowed
				}
			}
		}
		if reported["orders.create"] != 2*calls || reported["orders.list"] != calls {
			t.Errorf("reported %v", reported)
		}
		counts := service.book.grants()
		if counts.Returned == 0 || counts.Held != 0 || counts.Granted-counts.Returned-counts.Expired != 3*calls {
			t.Errorf("counted %+v", counts)
		}
	})
}

// Close returns all units, and has calls that wait fail as those of a client that is closed.
func TestCloseReturnsAllUnits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(10, ""))
		service.knows("other")
		service.calls(t, 1, "r")
		first := service.seen()[0]
		service.takes = 10 * time.Millisecond
		service.then(granted(4, ""))
		late := make(chan error, 1)
		go func() {
			_, _, err := service.callOf(t.Context(), CheckRequest{APIKey: "other", Resource: "r", Cost: 1})
			late <- err
		}()
		synctest.Wait()
		closeBook(service.book)
		var failure *Error
		if err := <-late; !errors.As(err, &failure) || failure.Code != codes.FailedPrecondition {
			t.Errorf("the call that waited got %v", err)
		}
		unused := map[string]uint64{}
		for _, request := range service.seen() {
			for _, back := range request.Returns {
				unused[back.GrantId] = back.Unused
			}
		}
		if len(unused) != 2 || unused[first.GrantId] != 9 {
			t.Errorf("returned %v", unused)
		}
		if held := service.book.grants().Held; held != 0 {
			t.Errorf("%d units are held", held)
		}
	})
}

// Without units calls are denied until it can be asked again, with waits that become shorter, and are counted by their limit.
func TestCallsAreDeniedUntilItCanBeAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, refused(ReasonOverLimit, 300*time.Millisecond))
		decision, how, _ := service.call("r")
		if how != afterWaiting || decision.Allowed || decision.Origin != OriginService || *decision.RetryAfter != 300*time.Millisecond {
			t.Errorf("got %+v, %v", decision, how)
		}
		time.Sleep(100 * time.Millisecond)
		for range 2 {
			decision, how, _ = service.call("r")
			if how != atOnce || decision.Allowed || decision.Origin != OriginCache || *decision.RetryAfter != 200*time.Millisecond {
				t.Errorf("got %+v, %v", decision, how)
			}
		}
		if requests := service.seen(); len(requests) != 1 {
			t.Errorf("asked %d times", len(requests))
		}
		time.Sleep(200 * time.Millisecond)
		service.then(granted(1, ""))
		if allowed, _ := service.calls(t, 1, "r"); allowed != 1 {
			t.Error("the call was denied after the wait")
		}
		spent := service.seen()[0].Returns[0].Spent
		if len(spent) != 1 || spent[0].Denied != 3 || spent[0].Limit != "burst" || spent[0].Allowed != 0 {
			t.Errorf("reported %v", spent)
		}
		if counts := service.book.grants(); counts.Denied != 2 || counts.Waited != 3 {
			t.Errorf("counted %+v", counts)
		}
	})
}

// Calls for which a limit had no token left when they waited are denied, and do not wait for what it gains.
func TestCallsThatALimitHasNoTokensForAreDenied(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		few := granted(2, "")
		few.Decision.Remaining, few.Decision.Limits[0].Remaining = 1, 1
		last := granted(1, "")
		last.Decision.Remaining, last.Decision.Limits[0].Remaining = 0, 0
		service := ask(t, granted(1, ""), few, last)
		service.takes = time.Millisecond
		service.calls(t, 1, "r")
		var all sync.WaitGroup
		results := make([]bool, 6)
		for i := range results {
			all.Add(1)
			time.Sleep(time.Microsecond)
			go func() {
				defer all.Done()
				allowed, _ := service.calls(t, 1, "r")
				results[i] = allowed == 1
			}()
		}
		all.Wait()
		// The first asks alone; the other five wait for the second request, and the limit has three tokens for them.
		if requests := service.seen(); len(requests) > 4 {
			t.Errorf("asked %d times", len(requests))
		}
		if !slices.Equal(results, []bool{true, true, true, false, false, false}) {
			t.Errorf("allowed %v", results)
		}
	})
}

// After it got less than it wanted, a client that is exact asks again when the limit has gained a token, one that is paced after half
// of the horizon.
func TestNearTheLimit(t *testing.T) {
	for paced, wait := range map[bool]time.Duration{false: 50 * time.Millisecond, true: 250 * time.Millisecond} {
		inBubble(t, func(t *testing.T) {
			last := granted(1, "")
			last.Decision.Remaining, last.Decision.Limits[0].Remaining = 0, 0
			service := ask(t, granted(1, ""), granted(1, ""), last)
			service.book.isPaced = paced
			service.takes = time.Millisecond
			service.calls(t, 1, "r")
			var all sync.WaitGroup
			for range 3 {
				all.Add(1)
				go func() {
					defer all.Done()
					service.calls(t, 1, "r")
				}()
			}
			all.Wait()
			began := time.Now()
			for {
				decision, _, err := service.call("r")
				if decision.Allowed {
					break
				}
				if err != nil || decision.Reason != ReasonOverLimit || decision.RetryAfter == nil || !decision.Limits[0].WouldDeny {
					t.Fatalf("got %+v, %v", decision, err)
				}
				time.Sleep(time.Millisecond)
			}
			if took := time.Since(began); took < wait || took > wait+5*time.Millisecond {
				t.Errorf("paced %v: it was asked again after %v", paced, took)
			}
		})
	}
}

// Calls of which a limit has to know each are checked one by one for as long as the service says.
func TestCallsThatAreCheckedOneByOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		overdraft := perCall(ratelimitv1.GrantResponse_OVERDRAFT, 10*time.Second)
		service := ask(t, overdraft, overdraft)
		for range 12 {
			if _, how, err := service.call("r"); how != alone || err != nil {
				t.Fatalf("got %v, %v", how, err)
			}
			time.Sleep(time.Second - time.Millisecond)
		}
		if requests := service.seen(); len(requests) != 2 {
			t.Errorf("asked %d times", len(requests))
		}
	})
}

// One grant serves every resource that begins with its prefix, and no other; a cost has units of its own.
func TestWhatAGrantIsGoodFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(5, "orders."), granted(5, "-"), granted(5, ""))
		service.calls(t, 1, "orders.create")
		service.calls(t, 2, "orders.list")
		service.calls(t, 2, "orders")
		if _, how, err := service.callOf(t.Context(), CheckRequest{APIKey: "k", Resource: "orders.list", Cost: 3}); how != afterWaiting || err != nil {
			t.Errorf("got %v, %v", how, err)
		}
		requests := service.seen()
		if len(requests) != 3 || requests[1].Resource != "orders" || requests[2].GetCost() != 3 {
			t.Errorf("asked for %v", requests)
		}
		if held := service.book.grants().Held; held != 2+3+4 {
			t.Errorf("%d units are held", held)
		}
	})
}

// When the prefix of a key's grants changes, its plan has: what was charged to other limits is returned.
func TestAnotherPrefixHasUnitsOfItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(3, ""), granted(30, "orders."), granted(30, "users."))
		service.calls(t, 1, "orders.create")
		service.calls(t, 2, "users.list")
		service.seen()
		service.calls(t, 1, "orders.create")
		if _, how, _ := service.call("users.list"); how != afterWaiting {
			t.Errorf("units for orders were spent: %v", how)
		}
		if _, how, _ := service.call("orders.create"); how != atOnce {
			t.Errorf("units for orders were not spent: %v", how)
		}
		if requests := service.seen(); len(requests) != 2 || requests[1].Resource != "users.list" {
			t.Errorf("asked for %v", requests)
		}
	})
}

// A key that is refused has nothing more spent, and all its calls are denied.
func TestAKeyThatIsRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(9, "orders."), refused(ReasonKeyRevoked, time.Second))
		service.calls(t, 1, "orders.create")
		decision, _, _ := service.call("users.list")
		if decision.Reason != ReasonKeyRevoked {
			t.Errorf("got %+v", decision)
		}
		if decision, how, _ := service.call("orders.create"); decision.Allowed || how != atOnce {
			t.Errorf("got %+v, %v", decision, how)
		}
		requests := service.seen()
		if last := requests[len(requests)-1]; last.Wants != 0 || last.Returns[0].Unused != 8 {
			t.Errorf("sent %v", last)
		}
	})
}

// What is withdrawn is returned, and the next call asks anew.
func TestUnitsThatAreWithdrawn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(9, ""))
		service.calls(t, 1, "r")
		service.seen()
		service.book.withdrawn("another")
		service.book.withdrawn("id")
		requests := service.seen()
		if len(requests) != 1 || requests[0].Wants != 0 || requests[0].Returns[0].Unused != 8 {
			t.Errorf("sent %v", requests)
		}
		service.then(refused(ReasonKeyRevoked, time.Second))
		if decision, how, _ := service.call("r"); decision.Reason != ReasonKeyRevoked || how != afterWaiting {
			t.Errorf("got %+v, %v", decision, how)
		}
	})
}

// A request that fails has those calls fail that waited for it, and all that it may have been granted be returned.
func TestARequestThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		away := &Error{Code: codes.Unavailable, Message: "draining"}
		service := ask(t, away, granted(1, ""))
		service.takes = 10 * time.Millisecond
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, _, err := service.call("r")
				errs <- err
			}()
			time.Sleep(time.Millisecond)
		}
		if err := <-errs; err != error(away) {
			t.Errorf("the first call got %v", err)
		}
		if err := <-errs; err != nil {
			t.Errorf("the second call got %v", err)
		}
		requests := service.seen()
		if len(requests) != 2 {
			t.Fatalf("asked %d times", len(requests))
		}
		if back := requests[1].Returns; len(back) != 1 || back[0].GrantId != requests[0].GrantId || back[0].Unused != 1 {
			t.Errorf("returned %v", back)
		}
	})
}

// What was to be returned is returned again until it was, but for no longer than the service knows what it has counted.
func TestReturnsAreRepeated(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		away := &Error{Code: codes.Unavailable}
		notMade := granted(0, "")
		notMade.ReturnsMade = false
		service := ask(t, granted(4, ""))
		service.thenOfReturns(away, notMade)
		service.calls(t, 1, "r")
		service.seen()
		time.Sleep(4 * time.Second)
		requests := service.seen()
		if len(requests) != 3 {
			t.Fatalf("sent %d times", len(requests))
		}
		for _, request := range requests {
			if request.Wants != 0 || len(request.Returns) != 1 || request.Returns[0].Unused != 3 || len(request.Returns[0].Spent) != 1 {
				t.Errorf("returned %v", request.Returns)
			}
		}
		service.then(granted(4, ""))
		service.knows("k")
		service.calls(t, 1, "r")
		service.seen()
		service.thenOfReturns(slices.Repeat([]any{away}, 100)...)
		time.Sleep(40 * time.Second)
		if requests := service.seen(); len(requests) < 20 || len(requests) > 30 {
			t.Errorf("sent %d times", len(requests))
		}
	})
}

// Neither a call that gives up nor its deadline takes a unit, and the calls after it are served.
func TestCallsThatGiveUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(1, ""))
		service.takes = 70 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, _, err := service.callOf(ctx, CheckRequest{APIKey: "k", Resource: "r", Cost: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		var failure *Error
		if _, _, err := service.call("r"); !errors.As(err, &failure) || failure.Code != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		time.Sleep(20 * time.Millisecond)
		if allowed, _ := service.calls(t, 1, "r"); allowed != 1 {
			t.Error("the unit was not spent")
		}
	})
}

// Calls that have waited for too long are denied, not failed, if the service had fewer units than were wanted meanwhile: one that
// fails open would let them pass beyond the limit.
func TestCallsThatWaitForALimitAreDeniedInTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		few := func(left int64) *ratelimitv1.GrantResponse {
			response := granted(1, "")
			response.Decision.Remaining = left
			return response
		}
		service := ask(t, few(20), few(20), few(20))
		service.takes = 20 * time.Millisecond
		var allowed, denied, failed int
		var mutex sync.Mutex
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() {
				decision, _, err := service.call("r")
				mutex.Lock()
				defer mutex.Unlock()
				switch {
				case err != nil:
					failed++
				case decision.Allowed:
					allowed++
				case decision.Reason == ReasonOverLimit && decision.Limit == "burst" && *decision.RetryAfter == 50*time.Millisecond:
					denied++
				}
			})
		}
		calls.Wait()
		if allowed != 2 || denied != 8 || failed != 0 {
			t.Errorf("%d were allowed, %d denied, and %d failed", allowed, denied, failed)
		}
		time.Sleep(time.Second)
		service.seen()
		service.takes = 70 * time.Millisecond
		var failure *Error
		service.book.withdrawn("id")
		if _, _, err := service.call("r"); !errors.As(err, &failure) || failure.Code != codes.DeadlineExceeded {
			t.Errorf("got %v without a response", err)
		}
	})
}

// A limit that has enough left denies none of them: the service was too slow.
func TestCallsThatWaitForTheServiceFail(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(1, ""), granted(1, ""), granted(1, ""))
		service.takes = 20 * time.Millisecond
		var failed atomic.Int64
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() {
				var failure *Error
				if _, _, err := service.call("r"); errors.As(err, &failure) && failure.Code == codes.DeadlineExceeded {
					failed.Add(1)
				}
			})
		}
		calls.Wait()
		if failed.Load() != 8 {
			t.Errorf("%d failed", failed.Load())
		}
	})
}

// What calls were denied is reported again when that failed, though no unit is returned with it.
func TestReportsAreRepeated(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(2, ""))
		service.thenOfReturns(&Error{Code: codes.Unavailable})
		service.calls(t, 2, "r")
		service.seen()
		time.Sleep(9 * time.Second)
		requests := service.seen()
		if len(requests) != 2 {
			t.Fatalf("sent %d times", len(requests))
		}
		for _, request := range requests {
			if len(request.Returns) != 1 || request.Returns[0].Unused != 0 || len(request.Returns[0].Spent) != 1 {
				t.Errorf("returned %v", request.Returns)
			}
		}
	})
}

// A service that knows no grants has all calls checked, and is asked again after 10 seconds.
func TestAServiceWithoutGrants(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, &Error{Code: codes.Unimplemented})
		for range 14 {
			if _, how, err := service.call("r"); how != alone || err != nil {
				t.Fatalf("got %v, %v", how, err)
			}
			time.Sleep(time.Second - time.Millisecond)
			service.then(&Error{Code: codes.Unimplemented})
		}
		if requests := service.seen(); len(requests) != 2 {
			t.Errorf("asked %d times", len(requests))
		}
	})
}

// Only what can be reported is decided by units, and only so many keys and resources.
func TestBounds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(1000, ""))
		service.calls(t, 1, "r")
		for _, odd := range []CheckRequest{
			{APIKey: "k", Resource: "a\nb", Cost: 1},
			{APIKey: "k", Resource: "a\x80", Cost: 1},
			{APIKey: "k", Resource: strings.Repeat("a", 257), Cost: 1},
			{APIKey: "k", Resource: "r", Cost: maxTokens + 1},
		} {
			if _, how, _ := service.callOf(t.Context(), odd); how != alone {
				t.Errorf("%+v was decided: %v", odd, how)
			}
		}
		for i := range 3 * maxLinesOfKey {
			service.calls(t, 1, fmt.Sprint("r", i))
		}
		key := service.book.keys.find(&CheckRequest{APIKey: "k"})
		if lines := key.lines.Load().size(); lines > maxLinesOfKey {
			t.Errorf("%d resources are kept", lines)
		}
		reported := uint64(0)
		want := uint64(3*maxLinesOfKey + 1)
		for range 8 {
			time.Sleep(550 * time.Millisecond)
			if _, how, _ := service.call("r"); how != alone {
				want++
			}
		}
		closeBook(service.book)
		for _, request := range service.seen() {
			lines := 0
			for _, back := range request.Returns {
				lines += len(back.Spent)
				for _, spent := range back.Spent {
					reported += spent.Allowed
				}
			}
			if lines > maxLinesOfKey {
				t.Errorf("a request reports %d resources", lines)
			}
		}
		if reported != want {
			t.Errorf("%d calls were reported, not %d", reported, want)
		}
	})
}

// Keys that are not called are forgotten, and make room for others when there are too many.
func TestKeysAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t, granted(5, ""))
		service.calls(t, 2, "r")
		service.book.keys.most = 1000
		kept := func() int {
			service.book.keys.mutex.Lock()
			defer service.book.keys.mutex.Unlock()
			return service.book.keys.count
		}
		for i := range 2000 {
			service.knows(fmt.Sprint("key", i))
		}
		if count := kept(); count > 1000 {
			t.Errorf("%d keys are kept", count)
		}
		if _, how, _ := service.call("r"); how != atOnce {
			t.Errorf("the key with units was forgotten: %v", how)
		}
		time.Sleep(30 * time.Second)
		if count := kept(); count != 0 {
			t.Errorf("%d keys are kept that nobody calls", count)
		}
		if counts := service.book.grants(); counts.Granted != 5 || counts.Allowed != 2 || counts.Waited == 0 {
			t.Errorf("counted %+v", counts)
		}
	})
}

// Calls of many goroutines take each unit once.
func TestUnitsAreSpentOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		service := ask(t)
		var all sync.WaitGroup
		var mutex sync.Mutex
		allowed := 0
		service.then(slices.Repeat([]any{granted(97, "")}, 20)...)
		for range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				own := 0
				for range 500 {
					if decision, _, _ := service.call("r"); decision.Allowed {
						own++
					}
				}
				mutex.Lock()
				defer mutex.Unlock()
				allowed += own
			}()
		}
		all.Wait()
		service.seen()
		counts := service.book.grants()
		if uint64(allowed) != counts.Granted-counts.Returned-counts.Expired-uint64(counts.Held) || counts.Granted < 97*15 {
			t.Errorf("%d calls were allowed, with %+v", allowed, counts)
		}
	})
}
