package ratelimit

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

const (
	// maxLinesOfKey is the resources of one key, all of which one request can report.
	maxLinesOfKey = 128
	// maxLines is the resources of all keys together, in some 300 bytes each.
	maxLines = 100_000
	// maxPools is the costs and prefixes of one key.
	maxPools = 16
	// maxReturns is the grants that one request can return.
	maxReturns = 64
	// returnPause is after which that is returned again by itself which just was not.
	returnPause = time.Second
	// tooOld is after which nothing is returned: the service knows for 30 s what it has counted.
	tooOld = 25 * time.Second
)

// inFlight is a request that is under way. From when it began, no unit that it returns is spent.
type inFlight struct {
	key *grantKey
	// pool is the one that units are asked for. Nil if the request only returns some.
	pool    *pool
	request *ratelimitv1.GrantRequest
	returns []grantReturn
	began   time.Duration
	// isUrgent is whether a call waits for it.
	isUrgent bool
	// bytes is the size of the request, once it is to be sent over a stream.
	bytes int
}

// waiter is a call that waits for units.
type waiter struct {
	line *line
	// sent is the request under way when it began to wait, or the next one: the one that fails it.
	sent *inFlight
	// began is when it began to wait.
	began   time.Duration
	outcome chan outcome
}

// outcome is what becomes of a call that waits: a decision, an error, or neither if it has to be checked by itself.
type outcome struct {
	decision Decision
	err      error
	how      how
}

// grantReturn is a grant that is returned until the service has done it.
type grantReturn struct {
	message *ratelimitv1.GrantReturn
	endedAt time.Duration
	// wasSent is whether it stays as it is: what it reports is counted once.
	wasSent bool
}

// saysNothing is whether nothing is lost without it.
func (r *grantReturn) saysNothing() bool {
	return !r.wasSent && r.message.Unused == 0 && len(r.message.Spent) == 0
}

// grantKey is one key of which a client holds units. What is no atomic is guarded by the mutex, but for what never changes: the
// credential and its hash.
//
// What each call reads comes first, and the line and the pool of a key that has one of each are part of it: what is apart takes as long
// to read as all of the rest, with more keys than a core's cache has room for.
type grantKey struct {
	hash       uint64
	credential string
	byID       bool
	// next is the key after it in its chain of the index.
	next atomic.Pointer[grantKey]
	// first is the line that was made first, which most calls are of. Nil if there is none.
	first atomic.Pointer[line]
	// ownLine, ownPool and ownCount are the first that were made. They are used once.
	ownLine  line
	ownPool  pool
	ownCount callCount

	book  *grantBook
	lines atomic.Pointer[lineSet]
	// denial is that of all calls of the key, once it was one.
	denial atomic.Pointer[denial]

	mutex sync.Mutex
	// keyID is its public id. Empty until it is known.
	keyID string
	// isGone is whether the index has removed it.
	isGone bool
	pools  []*pool
	// retired is the lines that were removed, whose last call may just be counted.
	retired []*line
	// waiters is those that wait, those first that came first.
	waiters  []*waiter
	inFlight *inFlight
	returns  []grantReturn
	spent    []*ratelimitv1.GrantSpent
	// calledAt is when it was called last, as far as was examined: seen is the units that were spent by then.
	calledAt time.Duration
	seen     int64
	// silentSince is since when the service was not sent anything.
	silentSince time.Duration
	// returnAt is before which nothing is returned by itself, since that has just failed.
	returnAt time.Duration
	// due is when it is examined next. 0 is never.
	due time.Duration
	// ended is its units so far: those granted, and those that were not spent.
	ended Grants
	// served is the calls that waited and were allowed or denied then, and denied those of pools that were removed.
	served, refused, denied uint64
}

func newGrantKey(request *CheckRequest, hash uint64, book *grantBook) *grantKey {
	now := book.now()
	key := &grantKey{
		book: book, credential: credentialOf(request), byID: request.KeyID != "", hash: hash,
		calledAt: now, silentSince: now,
	}
	key.lines.Store(noLines)
	return key
}

// grants is its numbers so far.
func (k *grantKey) grants() Grants {
	now := k.ended
	denied := k.denied
	for _, pool := range k.pools {
		now.Held += pool.left()
		denied += uint64(pool.denied.Load())
	}
	now.Allowed = now.Granted - now.Returned - now.Expired - uint64(now.Held) - k.served
	now.Denied = denied - k.refused
	return now
}

// isEmpty is whether no grant is held.
func (k *grantKey) isEmpty() bool {
	for _, pool := range k.pools {
		if !pool.isEmpty() {
			return false
		}
	}
	return true
}

// isUnused is whether nothing is held, asked for, or to be reported.
func (k *grantKey) isUnused() bool {
	if k.isGone || k.inFlight != nil || len(k.waiters) > 0 || !k.isEmpty() || k.hasReturns(k.book.now()) {
		return false
	}
	k.collect()
	return len(k.spent) == 0
}

// hasReturns is whether there are units to be returned, or calls to be reported with them, that are not too old for it.
func (k *grantKey) hasReturns(now time.Duration) bool {
	for _, each := range k.returns {
		if !each.saysNothing() && each.endedAt+tooOld >= now {
			return true
		}
	}
	return false
}

// leave ends it, once it is out of the index.
func (k *grantKey) leave() {
	k.isGone = true
	k.book.names.remove(k)
	k.book.lines.Add(-int64(k.lines.Load().size()))
	k.first.Store(nil)
	k.lines.Store(noLines)
}

// findLine is the line of such calls. Nil if there is none.
func (k *grantKey) findLine(resource string, cost uint64) *line {
	if first := k.first.Load(); first != nil && first.cost == cost && first.resource == resource {
		return first
	}
	return k.lines.Load().find(resource, cost)
}

// quiet is for how long it was not called.
func (k *grantKey) quiet(now time.Duration) time.Duration {
	var spent int64
	for _, pool := range k.pools {
		spent += pool.spent() + pool.denied.Load()
	}
	if spent != k.seen {
		k.calledAt, k.seen = now, spent
	}
	return now - k.calledAt
}

// lineOf is the line of such calls. Nil if there are too many already.
func (k *grantKey) lineOf(resource string, cost uint64) *line {
	lines := k.lines.Load()
	if found := lines.find(resource, cost); found != nil {
		return found
	}
	if lines.size() >= maxLinesOfKey {
		k.collect()
		lines.all(func(one *line) { k.retired = append(k.retired, one) })
		k.book.lines.Add(-int64(lines.size()))
		lines = noLines
		k.first.Store(nil)
		k.lines.Store(lines)
	}
	if k.book.lines.Load() >= maxLines {
		return nil
	}
	pool := k.poolFor(resource, cost)
	if pool == nil {
		return nil
	}
	more, count := &k.ownLine, &k.ownCount
	if more.cost != 0 {
		more, count = &line{}, &callCount{}
	}
	more.resource, more.cost, more.allowed = resource, cost, count
	more.pool.Store(pool)
	if lines.size() == 0 {
		k.first.Store(more)
	}
	k.lines.Store(lines.with(more))
	k.book.lines.Add(1)
	return more
}

// poolFor is the units for such calls. Nil if there are too many kinds already.
func (k *grantKey) poolFor(resource string, cost uint64) *pool {
	for _, pool := range k.pools {
		if pool.cost == cost && pool.covers(resource) {
			return pool
		}
	}
	if len(k.pools) >= maxPools {
		return nil
	}
	more := &k.ownPool
	if more.cost != 0 {
		more = &pool{}
	}
	more.cost, more.resource = cost, resource
	k.pools = append(k.pools, more)
	return more
}

// drop removes a pool that has no units.
func (k *grantKey) drop(unused *pool) {
	k.denied += uint64(unused.denied.Load())
	k.seen -= unused.spent() + unused.denied.Load()
	for i, pool := range k.pools {
		if pool == unused {
			k.pools = append(k.pools[:i], k.pools[i+1:]...)
			return
		}
	}
}

// cover is the pool for units that were asked for one, and that are good for all resources that begin with a prefix, or if that
// is nil for its own alone. Lines that it covers are moved to it. Units that were charged to other limits are returned.
func (k *grantKey) cover(asked *pool, prefix *string, now time.Duration) *pool {
	if samePrefix(asked.prefix, prefix) {
		return asked
	}
	target := k.poolWith(asked, prefix)
	k.lines.Load().all(func(one *line) {
		switch {
		case one.cost != target.cost:
		case target.covers(one.resource):
			one.pool.Store(target)
		case one.pool.Load() == asked:
			alone := &pool{cost: one.cost, resource: one.resource}
			k.pools = append(k.pools, alone)
			one.pool.Store(alone)
		}
	})
	used := map[*pool]bool{target: true}
	k.lines.Load().all(func(one *line) { used[one.pool.Load()] = true })
	for _, each := range slices.Clone(k.pools) {
		if !used[each] {
			k.over(each.release(nil), now)
			k.drop(each)
		}
	}
	return target
}

// poolWith is the pool of a prefix: the one that there is, or that for which units were asked, if it had none yet. What takes units
// of a pool does not examine its prefix, so another prefix needs another pool.
func (k *grantKey) poolWith(asked *pool, prefix *string) *pool {
	for _, other := range k.pools {
		if other != asked && other.cost == asked.cost && prefix != nil && samePrefix(other.prefix, prefix) {
			return other
		}
	}
	if asked.granted == 0 {
		asked.prefix = prefix
		return asked
	}
	next := &pool{cost: asked.cost, resource: asked.resource, prefix: prefix, horizon: asked.horizon}
	next.demand = demand{perNanosecond: asked.demand.perNanosecond, last: asked.demand.last}
	k.pools = append(k.pools, next)
	return next
}

func samePrefix(one, other *string) bool {
	return one == other || one != nil && other != nil && *one == *other
}

// over has grants be returned that have ended.
func (k *grantKey) over(ended []endedUnits, now time.Duration) {
	for _, each := range ended {
		if each.expired {
			k.ended.Expired += uint64(each.unused)
		} else {
			k.ended.Returned += uint64(each.unused)
		}
		k.unitsBack(each.grantID, each.unused, now)
	}
}

// unitsBack returns units with the next request.
func (k *grantKey) unitsBack(grantID string, unused int64, now time.Duration) {
	k.returns = append(k.returns, grantReturn{
		message: &ratelimitv1.GrantReturn{GrantId: grantID, Unused: uint64(unused)}, endedAt: now,
	})
}

// giveUp has all units be returned that a request may have been granted, but not at once: the service or its store has just failed.
func (k *grantKey) giveUp(inFlight *inFlight, now time.Duration) {
	k.unitsBack(inFlight.request.GrantId, int64(inFlight.request.Wants), now)
	k.returnAt = now + returnPause
	if more := len(k.returns) - maxReturns; more > 0 {
		k.returns = k.returns[more:]
	}
}

// expire ends the grants that have no more units.
func (k *grantKey) expire(now time.Duration) {
	for _, pool := range k.pools {
		k.over(pool.expire(now, nil), now)
	}
}

// noteSpent notes the units that were spent by now, those included that were just granted for calls that waited: whether others are
// idle, and since when the key was not called, counts from now.
func (k *grantKey) noteSpent(now time.Duration) {
	for _, pool := range k.pools {
		if pool.seenAt == now {
			pool.seen = pool.spent()
		}
	}
	k.quiet(now)
}

// postpone has what a request was to return be returned later.
func (k *grantKey) postpone(inFlight *inFlight, now time.Duration) {
	if len(inFlight.returns) > 0 {
		k.returns = append(inFlight.returns, k.returns...)
		k.returnAt = now + returnPause
	}
}

// release has nothing more of the key be spent.
func (k *grantKey) release(now time.Duration) {
	var ended []endedUnits
	for _, pool := range k.pools {
		ended = pool.release(ended)
	}
	k.over(ended, now)
}

// deny counts a denied call, and is the decision on it.
func (k *grantKey) deny(line *line, denial *denial, now time.Duration, origin Origin) Decision {
	if limit := denial.decision.Limit; !line.countDenial(limit) {
		k.spent = line.reportDenials(k.spent)
		first := &denialCount{limit: limit}
		first.calls.Add(1)
		line.denials.Store(first)
	}
	line.pool.Load().denied.Add(1)
	return denial.applied(now, origin)
}

// collect has what was decided so far be reported.
func (k *grantKey) collect() {
	for _, one := range k.retired {
		k.spent = one.report(k.spent)
	}
	k.retired = nil
	k.lines.Load().all(func(one *line) { k.spent = one.report(k.spent) })
}

// ask is the next request, for so many units of a pool, or only with what is returned. It has all that can be returned.
func (k *grantKey) ask(pool *pool, wants int64, now time.Duration) *inFlight {
	k.collect()
	k.attach(now)
	sent := make([]grantReturn, 0, min(len(k.returns), maxReturns))
	kept := k.returns[:0]
	for _, each := range k.returns {
		switch {
		case each.endedAt+tooOld < now || each.saysNothing():
		case len(sent) == maxReturns:
			kept = append(kept, each)
		default:
			each.wasSent = true
			sent = append(sent, each)
		}
	}
	clear(k.returns[len(kept):])
	k.returns = kept
	request := &ratelimitv1.GrantRequest{}
	for _, each := range sent {
		request.Returns = append(request.Returns, each.message)
	}
	if k.byID {
		request.Credential = &ratelimitv1.GrantRequest_KeyId{KeyId: k.credential}
	} else {
		request.Credential = &ratelimitv1.GrantRequest_ApiKey{ApiKey: k.credential}
	}
	if pool != nil {
		request.GrantId, request.Wants, request.Resource = newGrantID(), uint32(wants), pool.resource
		if pool.cost != 1 {
			request.Cost = proto.Uint64(pool.cost)
		}
	}
	k.silentSince = now
	k.inFlight = &inFlight{key: k, pool: pool, request: request, returns: sent, began: now, isUrgent: len(k.waiters) > 0}
	return k.inFlight
}

// attach has what is to be reported go with a return, a new one if there is none.
func (k *grantKey) attach(now time.Duration) {
	if len(k.spent) == 0 {
		return
	}
	room, carrier := maxLinesOfKey, -1
	for i, each := range k.returns {
		room -= len(each.message.Spent)
		if carrier < 0 && !each.wasSent {
			carrier = i
		}
	}
	if carrier < 0 {
		k.unitsBack(newGrantID(), 0, now) // none that the service knows: it only reports
		carrier = len(k.returns) - 1
	}
	count := min(max(room, 0), len(k.spent))
	message := k.returns[carrier].message
	message.Spent = append(message.Spent, k.spent[:count]...)
	k.spent = append(k.spent[:0:0], k.spent[count:]...)
}

// newGrantID is 16 random bytes. They need to be unique, not secret.
func newGrantID() string {
	var id [16]byte
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	return hex.EncodeToString(id[:])
}

// resolve passes to those that wait what becomes of them, in order, as decide says: the others wait on.
func (k *grantKey) resolve(decide func(*waiter) (outcome, bool)) {
	waiting := k.waiters
	k.waiters = nil
	for _, waits := range waiting {
		if result, isDecided := decide(waits); isDecided {
			waits.outcome <- result
		} else {
			k.waiters = append(k.waiters, waits)
		}
	}
}

// abandon has a call wait no more.
func (k *grantKey) abandon(waits *waiter) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if i := slices.Index(k.waiters, waits); i >= 0 {
		k.waiters = slices.Delete(k.waiters, i, i+1)
	}
}

// endWait has a call wait no more that has waited for too long. It is denied if a limit had too few units left while it waited,
// and fails otherwise. False if it waits no more.
func (k *grantKey) endWait(waits *waiter) (outcome, bool) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	i := slices.Index(k.waiters, waits)
	if i < 0 {
		return outcome{}, false
	}
	k.waiters = slices.Delete(k.waiters, i, i+1)
	if short := waits.line.pool.Load().short; short != nil && short.at >= waits.began {
		k.refused++
		return outcome{decision: k.deny(waits.line, short, short.at, OriginService), how: afterWaiting}, true
	}
	return outcome{err: &Error{Code: codes.DeadlineExceeded, Message: "no units were granted in time"}, how: afterWaiting}, true
}

// needs is the pool that units are to be asked for next. Nil if there is none.
func (k *grantKey) needs() *pool {
	if len(k.waiters) > 0 {
		return k.waiters[0].line.pool.Load()
	}
	for _, pool := range k.pools {
		if pool.wantsMore {
			return pool
		}
	}
	return nil
}

// waiting is how many calls wait for units of a pool.
func (k *grantKey) waiting(pool *pool) (count int64) {
	for _, waits := range k.waiters {
		if waits.line.pool.Load() == pool {
			count++
		}
	}
	return count
}
