//go:build go1.25

package ratelimit

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// simulatedService has one token bucket and the rules of the service: what is granted is charged, a quarter of what is left at most, and
// what is returned comes back as far as it has not drained.
type simulatedService struct {
	capacity, rate float64
	// roundTrip is how long a call takes.
	roundTrip time.Duration
	// losesReplies is whether the reply to every 20th request is lost.
	losesReplies bool

	mutex    sync.Mutex
	used     float64
	refunded float64
	at       time.Time
	grants   map[string]*simulatedGrant
	calls    int
}

type simulatedGrant struct {
	made, ends time.Time
	units      float64
	// before is what was used before, which drains first, and refunded what was refunded by then.
	before, refunded float64
	isOver           bool
}

func newSimulatedService(capacity, rate float64) *simulatedService {
	return &simulatedService{
		capacity: capacity, rate: rate, roundTrip: time.Millisecond, at: time.Now(), grants: map[string]*simulatedGrant{},
	}
}

func (s *simulatedService) ttl() time.Duration {
	return min(time.Second, time.Duration(0.2*s.capacity/s.rate*float64(time.Second)))
}

func (s *simulatedService) drain() time.Time {
	now := time.Now()
	s.used = max(0, s.used-now.Sub(s.at).Seconds()*s.rate)
	s.at = now
	return now
}

func (s *simulatedService) check() bool {
	time.Sleep(s.roundTrip / 2)
	defer time.Sleep(s.roundTrip / 2)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.calls++
	s.drain()
	if s.used+1 > s.capacity {
		return false
	}
	s.used++
	return true
}

func (s *simulatedService) grant(_ context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	time.Sleep(s.roundTrip / 2)
	defer time.Sleep(s.roundTrip / 2)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.calls++
	now := s.drain()
	for _, each := range request.Returns {
		grant := s.grants[each.GrantId]
		s.grants[each.GrantId] = &simulatedGrant{isOver: true}
		if grant != nil && !grant.isOver && now.Before(grant.ends.Add(5*time.Second)) {
			drained := math.Ceil(now.Sub(grant.made).Seconds() * s.rate)
			before := max(0, grant.before-(s.refunded-grant.refunded))
			back := max(0, min(float64(each.Unused), grant.units, grant.units+before-drained))
			s.used = max(0, s.used-back)
			s.refunded += back
		}
	}
	response := &ratelimitv1.GrantResponse{GrantId: request.GrantId, ReturnsMade: true}
	if request.Wants > 0 && s.grants[request.GrantId] == nil {
		s.take(request, response, now)
	}
	if s.losesReplies && s.calls%20 == 0 {
		return nil, &Error{Code: codes.Unavailable}
	}
	return response, nil
}

func (s *simulatedService) take(request *ratelimitv1.GrantRequest, response *ratelimitv1.GrantResponse, now time.Time) {
	fit := math.Floor(s.capacity - s.used + 1e-9)
	decision := &ratelimitv1.CheckLimitResponse{
		Allowed: fit >= 1, Reason: ReasonWithinLimit, Source: SourceStore, KeyId: "k", Limit: "burst",
	}
	response.Decision = decision
	if fit < 1 {
		decision.Reason = ReasonOverLimit
		wait := time.Duration(math.Ceil((s.used + 1 - s.capacity) / s.rate * float64(time.Second)))
		decision.RetryAfter, response.AskAgainAfter = durationpb.New(wait), durationpb.New(wait)
		return
	}
	units := min(float64(request.Wants), max(1, math.Floor(fit/4)))
	s.grants[request.GrantId] = &simulatedGrant{
		made: now, ends: now.Add(s.ttl()), units: units, before: s.used, refunded: s.refunded,
	}
	s.used += units
	decision.Remaining = int64(s.capacity - s.used)
	decision.Limits = []*ratelimitv1.LimitResult{{
		Name: "burst", Limit: int64(s.capacity), Remaining: decision.Remaining,
		Window:     durationpb.New(time.Duration(s.capacity / s.rate * float64(time.Second))),
		ResetAfter: durationpb.New(time.Duration(s.used / s.rate * float64(time.Second))),
	}}
	response.Granted, response.Ttl, response.ResourcePrefix = uint32(units), durationpb.New(s.ttl()), new(string)
}

// oneByOne sends each request by itself.
type oneByOne struct {
	grant     func(context.Context, *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error)
	completed func(*inFlight, *ratelimitv1.GrantResponse, error)
	sent      sync.WaitGroup
	base      context.Context
	stop      context.CancelFunc
}

func (o *oneByOne) send(one *inFlight) {
	o.sent.Add(1)
	go func() {
		defer o.sent.Done()
		response, err := o.grant(o.base, one.request)
		o.completed(one, response, err)
	}()
}

func (o *oneByOne) close() { o.stop(); o.sent.Wait() }

// newTestBook is a book whose requests are sent by a function.
func newTestBook(
	t *testing.T, grant func(context.Context, *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error),
) *grantBook {
	t.Helper()
	began := time.Now()
	book := &grantBook{
		now:      func() time.Duration { return time.Since(began) },
		patience: func() time.Duration { return 50 * time.Millisecond }, maxDenial: time.Minute, keys: newKeyIndex(),
	}
	ctx, cancel := context.WithCancel(context.Background())
	book.sender = &oneByOne{grant: grant, completed: book.completed, base: ctx, stop: cancel}
	book.roundTrip.Store(int64(time.Millisecond))
	book.keeper = newGrantKeeper(book.now, book.check, func() {})
	go book.keeper.run()
	t.Cleanup(func() { closeBook(book) })
	return book
}

func closeBook(book *grantBook) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	book.close(ctx)
}

// simulation is some clients that share one limit, the one of rank n with 1/n of the load of the first. They call in bursts of a second
// on average, with as long pauses, and a third of them dies in the middle.
type simulation struct {
	clients      int
	load         float64
	isPaced      bool
	losesReplies bool
	loseClients  bool
	lasts        time.Duration
}

// outcomeOfSimulation is when calls came, and when which were allowed.
type outcomeOfSimulation struct {
	service          *simulatedService
	began            time.Time
	mutex            sync.Mutex
	arrived, allowed []time.Time
	failed           int
}

func (s simulation) run(t *testing.T) *outcomeOfSimulation {
	service := newSimulatedService(1000, 1000)
	service.losesReplies = s.losesReplies
	seen := &outcomeOfSimulation{service: service, began: time.Now()}
	shares := 0.0
	for rank := range s.clients {
		shares += 1 / float64(rank+1)
	}
	var callers, calls sync.WaitGroup
	for rank := range s.clients {
		book := newTestBook(t, service.grant)
		book.isPaced = s.isPaced
		ends := s.lasts
		if s.loseClients && rank%3 == 0 {
			ends /= 2
		}
		callers.Add(1)
		go func() {
			defer callers.Done()
			random := rand.New(rand.NewPCG(1, uint64(rank)))
			perSecond := 2 * s.load * service.rate / float64(rank+1) / shares
			for time.Since(seen.began) < ends {
				for burst := time.Now().Add(exponential(random, 1)); time.Now().Before(burst) && time.Since(seen.began) < ends; {
					time.Sleep(exponential(random, perSecond))
					arrived := time.Now()
					calls.Add(1)
					go func() {
						defer calls.Done()
						seen.call(book, arrived)
					}()
				}
				time.Sleep(exponential(random, 1))
			}
		}()
	}
	callers.Wait()
	calls.Wait()
	return seen
}

func exponential(random *rand.Rand, perSecond float64) time.Duration {
	return time.Duration(random.ExpFloat64() / perSecond * float64(time.Second))
}

func (o *outcomeOfSimulation) call(book *grantBook, arrived time.Time) {
	request := CheckRequest{APIKey: "k", Resource: "r", Cost: 1}
	var decision Decision
	var err error
	if !book.spend(&request, &decision) {
		var how how
		if decision, how, err = book.decide(context.Background(), &request); how == alone {
			decision.Allowed = o.service.check()
		}
	}
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.arrived = append(o.arrived, arrived)
	if err != nil {
		o.failed++
	} else if decision.Allowed {
		o.allowed = append(o.allowed, time.Now())
	}
}

// exact is how many of the calls one bucket would have allowed.
func (o *outcomeOfSimulation) exact() int {
	slices.SortFunc(o.arrived, time.Time.Compare)
	bucket := newSimulatedService(o.service.capacity, o.service.rate)
	allowed, at := 0, o.began
	for _, arrived := range o.arrived {
		bucket.used = max(0, bucket.used-arrived.Sub(at).Seconds()*bucket.rate)
		at = arrived
		if bucket.used+1 <= bucket.capacity {
			bucket.used++
			allowed++
		}
	}
	return allowed
}

// excess is by how many calls more was allowed than the limits admit: since the beginning, and in any window.
func (o *outcomeOfSimulation) excess() (inAll, inWindow float64) {
	slices.SortFunc(o.allowed, time.Time.Compare)
	capacity, rate := o.service.capacity, o.service.rate
	inAll, inWindow = math.Inf(-1), math.Inf(-1)
	lowest := math.Inf(1)
	for i, when := range o.allowed {
		refilled := rate * when.Sub(o.began).Seconds()
		lowest = min(lowest, float64(i)-refilled)
		inAll = max(inAll, float64(i+1)-refilled-capacity)
		inWindow = max(inWindow, float64(i+1)-refilled-lowest-capacity-rate*o.service.ttl().Seconds())
	}
	return inAll, inWindow
}

// Clients that share a limit never allow more than it admits, whichever of them dies and whatever reply is lost, and nearly as much.
func TestGrantsOfManyClientsAreExact(t *testing.T) {
	for name, one := range map[string]struct {
		simulation
		ratio, perThousand float64
	}{
		"below the limit": {simulation{clients: 10, load: 0.9, lasts: 10 * time.Second}, 0.99, 150},
		"above the limit": {simulation{clients: 10, load: 1.5, lasts: 10 * time.Second}, 0.98, 700},
		"paced":           {simulation{clients: 10, load: 1.5, lasts: 10 * time.Second, isPaced: true}, 0.93, 150},
		"some die": {
			simulation{clients: 10, load: 1.5, lasts: 10 * time.Second, losesReplies: true, loseClients: true}, 0.9, 700,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				seen := one.run(t)
				if inAll, inWindow := seen.excess(); inAll > 1e-6 || inWindow > 1e-6 {
					t.Errorf("%.1f calls too many were allowed since the beginning, and %.1f in a window", inAll, inWindow)
				}
				seen.service.mutex.Lock()
				defer seen.service.mutex.Unlock()
				ratio := float64(len(seen.allowed)) / float64(seen.exact())
				perThousand := 1000 * float64(seen.service.calls) / float64(len(seen.arrived))
				t.Logf("%.4f of what one bucket allows, with %.0f calls of the service for 1000", ratio, perThousand)
				if ratio < one.ratio || perThousand > one.perThousand {
					t.Errorf("not at least %v, with at most %v", one.ratio, one.perThousand)
				}
				if !one.losesReplies && seen.failed > 0 {
					t.Errorf("%d calls failed", seen.failed)
				}
			})
		})
	}
}
