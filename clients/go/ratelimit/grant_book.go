package ratelimit

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

const (
	// quietTime is after which a key without units is checked: units would be over before its next call.
	quietTime = time.Second
	// forgetTime is after which a key is forgotten that was not called.
	forgetTime = 10 * time.Second
	// reportTime is in which a report is sent that has to be sent alone.
	reportTime = 5 * time.Second
	// backwardTime is for which calls are checked one by one that units cannot be asked for.
	backwardTime = 10 * time.Second
	// grantShare is the part of what a limit has left that one grant has at most.
	grantShare = 4
	// margin is before units expire that more are asked for, apart from round trips.
	margin = 2 * time.Millisecond
	// maxCredential and maxResource are the bytes of texts that units are asked for.
	maxCredential = 1024
	maxResource   = 256
)

// how is how a call was decided.
type how int

const (
	// alone is by a check of its own, which is still to be made.
	alone how = iota
	// atOnce is by units that were there, or a denial.
	atOnce
	// afterWaiting is by the response to a request for units.
	afterWaiting
)

// grantBook is the units of one client: which calls take them, and when more are asked for or some are returned. The rules are
// those of the contract of all clients. Times are of the client's clock, since it was created.
type grantBook struct {
	now    func() time.Duration
	sender sender
	// patience is how long a call waits.
	patience func() time.Duration
	// isPaced is whether a client that gets less than it wants waits before it asks again.
	isPaced bool
	// maxDenial is for how long calls are denied at most before the service is asked again.
	maxDenial time.Duration

	keys  *keyIndex
	names keyNames
	lines atomic.Int64

	waited, requests atomic.Uint64
	// allCheckedUntil is until when all calls are checked one by one, as a time.Duration.
	allCheckedUntil atomic.Int64
	roundTrip       atomic.Int64

	closed atomic.Bool
	// stopped is whether nothing is sent any more.
	stopped     atomic.Bool
	keeper      *grantKeeper
	allInFlight sync.WaitGroup
}

// sender sends requests, and has completed called with what becomes of each, in another goroutine.
type sender interface {
	send(*inFlight)
	// close ends what is under way, which lands then, too.
	close()
}

// newGrantBook is the book of a client, with a goroutine until close.
func newGrantBook(client *Client) *grantBook {
	o := &client.options
	book := &grantBook{
		now: o.monotonic, patience: client.patience,
		isPaced: o.nearLimit == NearLimitPaced, maxDenial: o.denialCacheMaxAge, keys: newKeyIndex(),
	}
	if book.now == nil {
		began := time.Now()
		book.now = func() time.Duration { return time.Since(began) }
	}
	book.roundTrip.Store(int64(time.Millisecond))
	book.sender = newGrantSender(client, book.completed, book.withdrawn)
	book.keeper = newGrantKeeper(book.now, book.check, client.reportGrants)
	go book.keeper.run()
	return book
}

// spend decides a call by a unit that is held, or a denial that is known, without a lock. It returns false for all others, whose
// decision is of no use.
func (b *grantBook) spend(request *CheckRequest, decision *Decision) bool {
	key := b.keys.find(request)
	if key == nil {
		return false
	}
	line := key.findLine(request.Resource, request.Cost)
	if line == nil {
		return false
	}
	pool := line.pool.Load()
	if held := pool.held.Load(); held != nil {
		// With many keys none of this is in the cache of the core, and a counter that changes has all that is read after it wait. So
		// all of it is read before, at the same time.
		_ = line.allowed.Load()
		if held.left.Load() <= 0 {
			return false
		}
		*decision = held.decision
		left := held.left.Add(-1)
		if left < 0 {
			return false
		}
		if left&held.untimed == 0 && b.now() >= held.expires {
			held.left.Add(1)
			return false
		}
		line.allowed.Add(1)
		if left == held.reserve {
			b.runsLow(key, pool, held)
		}
		return true
	}
	now, denial := b.now(), key.denial.Load()
	if denial == nil || now >= denial.until {
		denial = pool.denial.Load()
	}
	if denial == nil || now >= denial.until || !line.countDenial(denial.decision.Limit) {
		return false
	}
	pool.denied.Add(1)
	*decision = denial.applied(now, OriginCache)
	return true
}

// runsLow asks for more units when some of the last grant are left.
func (b *grantBook) runsLow(key *grantKey, pool *pool, held *units) {
	key.mutex.Lock()
	defer key.mutex.Unlock()
	if pool.held.Load() == held && len(pool.queue) == 0 {
		pool.wantsMore = true
		b.sendNext(key, b.now())
	}
}

// decide decides a call that spend has not, once there are units for it. Its errors are those of a failed check.
func (b *grantBook) decide(ctx context.Context, request *CheckRequest) (Decision, how, error) {
	now := b.now()
	key := b.keys.find(request)
	if key == nil {
		if !b.closed.Load() && isSound(request) {
			b.keep(request, now)
		}
		b.waited.Add(1)
		return Decision{}, alone, nil
	}
	decision, waits, how := b.begin(key, request, now)
	if waits == nil {
		if how == alone {
			b.waited.Add(1)
		}
		return decision, how, nil
	}
	b.waited.Add(1)
	return b.await(ctx, key, waits)
}

// keep has a key be found from now on, if there is room: its next call asks for units.
func (b *grantBook) keep(request *CheckRequest, now time.Duration) {
	if key := b.keys.add(request, b); key != nil {
		key.mutex.Lock()
		defer key.mutex.Unlock()
		b.scheduleCheck(key, now)
	}
}

// begin decides a call, or has it wait.
func (b *grantBook) begin(key *grantKey, request *CheckRequest, now time.Duration) (Decision, *waiter, how) {
	key.mutex.Lock()
	defer key.mutex.Unlock()
	key.expire(now)
	wasQuiet := key.quiet(now) > quietTime && key.isEmpty()
	key.calledAt = now
	if key.isGone || wasQuiet || int64(now) < b.allCheckedUntil.Load() {
		return Decision{}, nil, alone
	}
	line := key.findLine(request.Resource, request.Cost)
	if line == nil && isSound(request) {
		line = key.lineOf(request.Resource, request.Cost)
	}
	if line == nil {
		return Decision{}, nil, alone
	}
	decision, isDecided, isAlone := b.decided(key, line, now, OriginCache)
	switch {
	case isAlone:
		return Decision{}, nil, alone
	case isDecided:
		b.sendNext(key, now)
		return decision, nil, atOnce
	}
	waits := &waiter{line: line, began: now, outcome: make(chan outcome, 1)}
	key.waiters = append(key.waiters, waits)
	b.sendNext(key, now)
	return Decision{}, waits, afterWaiting
}

// await waits for what becomes of a call.
func (b *grantBook) await(ctx context.Context, key *grantKey, waits *waiter) (Decision, how, error) {
	timer := time.NewTimer(b.patience())
	defer timer.Stop()
	select {
	case result := <-waits.outcome:
		return result.decision, result.how, result.err
	case <-ctx.Done():
		key.abandon(waits)
		return Decision{}, afterWaiting, ctx.Err()
	case <-timer.C:
		result, isEnded := key.endWait(waits)
		if !isEnded {
			result = <-waits.outcome
		}
		return result.decision, result.how, result.err
	}
}

// decided is the decision on a call by a unit, or by a denial of that origin. isAlone is whether it has to be checked by itself.
func (b *grantBook) decided(
	key *grantKey, line *line, now time.Duration, origin Origin,
) (decision Decision, isDecided, isAlone bool) {
	pool := line.pool.Load()
	held, ended := pool.take(now, nil)
	key.over(ended, now)
	if held != nil {
		line.allowed.Add(1)
		return held.decision, true, false
	}
	for _, denial := range []*denial{key.denial.Load(), pool.denial.Load()} {
		if denial != nil && now < denial.until {
			return key.deny(line, denial, now, origin), true, false
		}
	}
	return Decision{}, false, now < pool.checkedUntil
}

// completed takes the response to a request, or its error. What comes after that is of no use.
func (b *grantBook) completed(inFlight *inFlight, response *ratelimitv1.GrantResponse, err error) {
	key := inFlight.key
	key.mutex.Lock()
	defer key.mutex.Unlock()
	if key.inFlight != inFlight {
		return
	}
	defer b.allInFlight.Done()
	now := b.now()
	key.inFlight = nil
	if err == nil {
		b.answered(inFlight, response, now)
	} else {
		b.failed(inFlight, err, now)
	}
	b.serve(key, now)
}

// withdrawn has nothing more of a key be spent, and its next call ask anew.
func (b *grantBook) withdrawn(keyID string) {
	for _, key := range b.names.of(keyID) {
		key.mutex.Lock()
		now := b.now()
		key.denial.Store(nil)
		for _, pool := range key.pools {
			pool.denial.Store(nil)
			pool.short = nil
			pool.checkedUntil = 0
		}
		key.release(now)
		b.serve(key, now)
		key.mutex.Unlock()
	}
}

func (b *grantBook) answered(inFlight *inFlight, response *ratelimitv1.GrantResponse, now time.Duration) {
	key, pool := inFlight.key, inFlight.pool
	if !response.ReturnsMade {
		key.postpone(inFlight, now)
	}
	if pool == nil {
		return
	}
	trip := b.roundTrip.Load()
	b.roundTrip.Store(trip + (int64(now-inFlight.began)-trip)/8)
	b.names.add(key, response.Decision.GetKeyId())
	wait := response.AskAgainAfter.AsDuration()
	switch {
	case response.Granted > 0 && response.Decision != nil:
		b.add(inFlight, response, now)
	case response.PerCall != ratelimitv1.GrantResponse_PER_CALL_UNSPECIFIED:
		pool.checkedUntil = now + wait
		if response.PerCall == ratelimitv1.GrantResponse_STORE_UNAVAILABLE {
			key.giveUp(inFlight, now)
		}
	case response.Decision != nil:
		b.deny(key, pool, decisionOf(response.Decision), now, wait)
	default: // the id was used before
		pool.checkedUntil = now + margin
	}
}

// add takes units that were granted.
func (b *grantBook) add(inFlight *inFlight, response *ratelimitv1.GrantResponse, now time.Duration) {
	key, ttl := inFlight.key, response.Ttl.AsDuration()
	pool := key.cover(inFlight.pool, response.ResourcePrefix, now)
	decision := decisionOf(response.Decision)
	decision.Source, decision.Origin = SourceGrant, OriginGrant
	more := &units{
		decision: decision, grantID: inFlight.request.GrantId, size: int64(response.Granted), expires: inFlight.began + ttl,
	}
	missing, left := int64(inFlight.request.Wants)-more.size, decision.Remaining/int64(pool.cost)
	isShort := missing > 0 && left < missing
	pool.horizon = ttl / 2
	key.ended.Granted += uint64(more.size)
	key.denial.Store(nil)
	pool.denial.Store(nil)
	pool.short = nil
	pool.checkedUntil = 0
	pool.add(more, isShort, time.Duration(b.roundTrip.Load()), now)
	if more.expires <= now { // the network takes longer than units last
		pool.checkedUntil = now + time.Second
	}
	if missing <= left/grantShare { // the next grant has them
		return
	}
	wait := untilOne(&decision)
	denied := overLimit(decision, wait)
	pool.short = &denial{decision: denied, at: now}
	if !isShort {
		return
	}
	b.refuse(inFlight, pool, pool.short, left, now)
	switch {
	case left <= 0:
		b.deny(key, pool, denied, now, wait)
	case b.isPaced:
		b.deny(key, pool, denied, now, 0)
	}
}

// refuse denies the last of the calls that wait for units of a pool: those for which the limit had no units left, by so much less
// than a request wanted that was sent when they waited.
func (b *grantBook) refuse(inFlight *inFlight, pool *pool, denied *denial, remaining int64, now time.Duration) {
	key, room := inFlight.key, pool.left()+remaining
	key.resolve(func(waits *waiter) (outcome, bool) {
		if waits.sent != inFlight || waits.line.pool.Load() != pool {
			return outcome{}, false
		}
		if room--; room >= 0 {
			return outcome{}, false
		}
		key.refused++
		return outcome{decision: key.deny(waits.line, denied, now, OriginService), how: afterWaiting}, true
	})
}

// deny denies calls without units for so long.
func (b *grantBook) deny(key *grantKey, pool *pool, decision Decision, now, wait time.Duration) {
	ofTheKey := false
	switch decision.Reason {
	case ReasonKeyUnknown, ReasonKeyRevoked, ReasonKeySuspended, ReasonKeyExpired:
		ofTheKey = true
	}
	if pause := pool.horizon / 2; b.isPaced && wait < pause && !ofTheKey {
		wait = pause
		decision = overLimit(decision, wait)
	}
	denied := &denial{decision: decision, at: now, until: now + min(wait, b.maxDenial)}
	if ofTheKey {
		key.release(now)
		key.denial.Store(denied)
	} else {
		pool.denial.Store(denied)
	}
}

// untilOne is the time in which the binding limit gains a token, if it does before its window ends.
func untilOne(decision *Decision) time.Duration {
	limit := bindingLimit(*decision)
	if limit == nil || limit.Limit <= 0 {
		return time.Millisecond
	}
	return min(max(limit.Window/time.Duration(limit.Limit), time.Millisecond), max(limit.ResetAfter, time.Millisecond))
}

// overLimit is a denial by the binding limit of a decision, until so much later.
func overLimit(decision Decision, wait time.Duration) Decision {
	decision.Allowed, decision.Reason, decision.Source = false, ReasonOverLimit, SourceStore
	decision.RetryAfter = &wait
	limits := make([]LimitResult, len(decision.Limits))
	for i, limit := range decision.Limits {
		if limit.Name == decision.Limit {
			limit.WouldDeny, limit.RetryAfter = true, &wait
		}
		limits[i] = limit
	}
	decision.Limits = limits
	return decision
}

func (b *grantBook) failed(inFlight *inFlight, err error, now time.Duration) {
	key, pool := inFlight.key, inFlight.pool
	failure, isError := err.(*Error)
	if isError && failure.Code == codes.InvalidArgument { // which may be for a return: none of them is sent again
		if pool != nil {
			pool.checkedUntil = now + backwardTime
		}
		return
	}
	key.postpone(inFlight, now)
	if isError && failure.Code == codes.Unimplemented {
		b.allCheckedUntil.Store(int64(now + backwardTime))
		for _, pool := range key.pools {
			pool.checkedUntil = now + backwardTime
		}
		return
	}
	if pool != nil && (!isError || failure.isFailure()) { // it may have been granted
		key.giveUp(inFlight, now)
	}
	key.resolve(func(waits *waiter) (outcome, bool) {
		return outcome{err: err, how: afterWaiting}, waits.sent == inFlight
	})
}

// serve decides the calls that wait, in order, and sends what is to be sent next.
func (b *grantBook) serve(key *grantKey, now time.Duration) {
	key.resolve(func(waits *waiter) (outcome, bool) {
		decision, isDecided, isAlone := b.decided(key, waits.line, now, OriginService)
		switch {
		case isAlone:
			return outcome{how: alone}, true
		case isDecided && decision.Allowed:
			key.served++
		case isDecided:
			key.refused++
		}
		return outcome{decision: decision, how: afterWaiting}, isDecided
	})
	key.noteSpent(now)
	if b.closed.Load() {
		key.release(now)
		if key.returnAt > now { // they were tried
			return
		}
	}
	b.sendNext(key, now)
	b.scheduleCheck(key, now)
}

// sendNext sends a request if one is due, and none is under way.
func (b *grantBook) sendNext(key *grantKey, now time.Duration) {
	if key.inFlight != nil || b.stopped.Load() {
		return
	}
	if pool := key.needs(); pool != nil && !b.closed.Load() {
		b.ask(key, pool, now)
		return
	}
	if !key.isEmpty() {
		return
	}
	if b.closed.Load() || now-key.silentSince >= reportTime {
		key.collect()
	}
	if now >= key.returnAt && (len(key.spent) > 0 || key.hasReturns(now)) {
		b.ask(key, nil, now)
	}
}

func (b *grantBook) ask(key *grantKey, pool *pool, now time.Duration) {
	var wants int64
	if pool != nil {
		pool.wantsMore = false
		waiting := key.waiting(pool)
		wants = pool.demand.wants(now, pool.spent()+pool.denied.Load()+waiting, waiting, pool.horizon)
	}
	inFlight := key.ask(pool, wants, now)
	for _, waits := range key.waiters {
		waits.sent = inFlight
	}
	b.requests.Add(1)
	b.allInFlight.Add(1)
	b.sender.send(inFlight)
}

// check examines a key that was due, if it still is: it returns units that nobody spends, asks for more before others expire, and
// forgets a key that is not called.
func (b *grantBook) check(key *grantKey, due, now time.Duration) {
	if b.isIdle(key, due, now) {
		b.keys.forget(key)
	}
}

// isIdle returns whether the key may be forgotten.
func (b *grantBook) isIdle(key *grantKey, due, now time.Duration) bool {
	key.mutex.Lock()
	defer key.mutex.Unlock()
	if key.isGone || key.due != due {
		return false
	}
	key.due = 0
	key.expire(now)
	for _, pool := range key.pools {
		switch {
		case pool.isEmpty():
		case pool.isIdle(now):
			key.over(pool.release(nil), now)
		case pool.endsWithin(b.beforeExpiry(), now):
			pool.wantsMore = true
		}
	}
	b.sendNext(key, now)
	b.scheduleCheck(key, now)
	return key.quiet(now) >= forgetTime
}

// beforeExpiry is how long before units expire more are asked for.
func (b *grantBook) beforeExpiry() time.Duration { return 2*time.Duration(b.roundTrip.Load()) + margin }

func (b *grantBook) scheduleCheck(key *grantKey, now time.Duration) {
	if key.isGone {
		return
	}
	due := now + forgetTime
	for _, pool := range key.pools {
		if !pool.isEmpty() {
			due = min(due, max(pool.nextCheck(b.beforeExpiry()), now+margin))
		}
	}
	if key.isEmpty() && key.inFlight == nil {
		due = min(due, max(key.silentSince+reportTime, now+time.Second))
		if key.hasReturns(now) {
			due = max(key.returnAt, now+margin)
		}
	}
	if key.due == 0 || due < key.due {
		key.due = due
		b.keeper.schedule(key, due)
	}
}

// close returns everything, waits for that until ctx ends, and has all calls that wait fail.
func (b *grantBook) close(ctx context.Context) {
	if b.closed.Swap(true) {
		return
	}
	b.keeper.stop()
	b.keys.all(func(key *grantKey) {
		key.resolve(func(*waiter) (outcome, bool) { return outcome{err: clientIsClosed(), how: afterWaiting}, true })
		b.serve(key, b.now())
	})
	settled := make(chan struct{})
	go func() {
		b.allInFlight.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-ctx.Done():
	}
	b.stopped.Store(true)
	b.sender.close()
	<-settled
}

// grants is the numbers so far.
func (b *grantBook) grants() Grants {
	all := b.keys.grants()
	all.Waited, all.Requests = b.waited.Load(), b.requests.Load()
	return all
}

// isSound is whether units can be asked for such calls.
func isSound(request *CheckRequest) bool {
	return 0 < request.Cost && request.Cost <= maxTokens &&
		isText(credentialOf(request), maxCredential) && credentialOf(request) != "" && isText(request.Resource, maxResource)
}

func isText(text string, maxBytes int) bool {
	return len(text) <= maxBytes && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}
