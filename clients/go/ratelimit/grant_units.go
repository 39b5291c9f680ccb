package ratelimit

import (
	"math"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// ended is what is left of units that may not be spent any more: so little that no number of attempts makes it 0.
	ended = math.MinInt64 / 2
	// roundTrips is of demand for which units have to last when more are asked for.
	roundTrips = 3
	// idleGaps is after how many mean gaps between calls units are idle, but for minIdle at least.
	idleGaps = 8
	minIdle  = 10 * time.Millisecond
	// untimedSpan is of demand for which the clock is read once: reading it takes as long as half of all the rest. So late, by the
	// clock, may units be spent that are spent as fast as before; any others have ended by then, since the keeper ends them, too.
	untimedSpan = 100 * time.Microsecond
	maxUntimed  = 63
	// often is the calls within the horizon for which more units are asked for before others expire.
	often = 4
)

// units is one grant: so many calls that may be allowed until it expires. Whoever takes the last counter below 0 has none. It is four
// cache lines: the first changes with each call, and the others never.
type units struct {
	left    atomic.Int64
	expires time.Duration
	// reserve is what is left when more are to be asked for. -1 means never.
	reserve int64
	// untimed is a number of units, one less than a power of two, of which the clock is read for one only. 0 if they are spent slowly.
	untimed int64
	size    int64
	grantID string

	_ [8]byte
	// decision is what each call gets that takes one.
	decision Decision
	_        [32]byte
}

// end has none of them spent any more, and returns how many were not.
func (u *units) end() int64 { return max(0, u.left.Swap(ended)) }

// denial is a decision of the service, received at a time, by which calls are denied until another.
type denial struct {
	decision  Decision
	at, until time.Duration
}

// applied is the denial for a call now, with its waits shortened.
func (d *denial) applied(now time.Duration, origin Origin) Decision {
	decision := d.decision.after(now - d.at)
	decision.Origin = origin
	return decision
}

// pool is the units of one key for calls of one cost, and for all resources that begin with a prefix, or for one resource.
// What is no atomic is guarded by the mutex of the key.
type pool struct {
	// held is the oldest grant, whose units are spent first. Nil if there is none.
	held atomic.Pointer[units]
	// denial is that by which calls without units are denied, once it was one.
	denial atomic.Pointer[denial]
	// denied is the calls that were denied so far.
	denied atomic.Int64
	// short is the denial of calls that have waited for too long, by the last grant that had so few units that the next one has not
	// what is missing either. Nil if the last grant had more.
	short *denial

	cost uint64
	// resource is the one that units are asked for.
	resource string
	// prefix is nil if the units are good for the resource alone, as far as is known.
	prefix *string
	// queue is the grants after the one that is held.
	queue []*units
	// horizon is the time for which units are asked for: half of the last ttl. 0 before the first grant.
	horizon time.Duration
	demand  demand
	// wantsMore is whether so few units are left that more are to be asked for.
	wantsMore bool
	// checkedUntil is until when calls are checked one by one.
	checkedUntil time.Duration
	// granted is all units so far, and unused those of grants that have ended.
	granted, unused int64
	// seen is the units that were spent when that was examined last.
	seen   int64
	seenAt time.Duration
}

// endedUnits is what became of a grant.
type endedUnits struct {
	grantID string
	unused  int64
	expired bool
}

// covers is whether the units are good for a resource.
func (p *pool) covers(resource string) bool {
	if p.prefix == nil {
		return resource == p.resource
	}
	return strings.HasPrefix(resource, *p.prefix)
}

// isEmpty is whether there is no grant.
func (p *pool) isEmpty() bool { return p.held.Load() == nil }

// left is the units that are held, those included that have expired since.
func (p *pool) left() int64 {
	held := p.held.Load()
	if held == nil {
		return 0
	}
	left := max(0, held.left.Load())
	for _, next := range p.queue {
		left += next.left.Load()
	}
	return left
}

// spent is the units that were spent so far.
func (p *pool) spent() int64 { return p.granted - p.unused - p.left() }

// add is one more grant, of a pool that knows its horizon and its demand. isShort is whether a limit had less than was wanted.
func (p *pool) add(more *units, isShort bool, roundTrip, now time.Duration) {
	p.granted += more.size
	p.demand.last = more.size
	more.reserve = -1
	if !isShort {
		lasts := max(p.horizon/4, roundTrips*roundTrip)
		if reserve := int64(min(p.demand.within(lasts), float64(more.size/2))); reserve > 0 {
			more.reserve = reserve
		}
	}
	for spare := int64(p.demand.within(untimedSpan)) / 2; spare > more.untimed && more.untimed < maxUntimed; {
		more.untimed = 2*more.untimed + 1
	}
	more.left.Store(more.size)
	p.wantsMore = false
	p.seen, p.seenAt = p.spent()-more.size, now
	if p.isEmpty() {
		p.held.Store(more)
	} else {
		p.queue = append(p.queue, more)
	}
}

// take takes one unit, and returns the grant that it is of: nil if there is none. It appends what became of grants that have
// no more.
func (p *pool) take(now time.Duration, over []endedUnits) (*units, []endedUnits) {
	for held := p.held.Load(); held != nil; held = p.held.Load() {
		if now < held.expires {
			if left := held.left.Add(-1); left >= 0 {
				p.wantsMore = p.wantsMore || left <= held.reserve && len(p.queue) == 0
				return held, over
			}
		}
		over = p.endOldest(over, now >= held.expires)
	}
	return nil, over
}

// expire ends the grants that have no more units, as take does.
func (p *pool) expire(now time.Duration, over []endedUnits) []endedUnits {
	for held := p.held.Load(); held != nil && (now >= held.expires || held.left.Load() <= 0); held = p.held.Load() {
		over = p.endOldest(over, now >= held.expires)
	}
	return over
}

// release ends all grants, as take does.
func (p *pool) release(over []endedUnits) []endedUnits {
	for !p.isEmpty() {
		over = p.endOldest(over, false)
	}
	p.wantsMore = false
	return over
}

func (p *pool) endOldest(over []endedUnits, expired bool) []endedUnits {
	held := p.held.Load()
	var next *units
	if len(p.queue) > 0 {
		next, p.queue = p.queue[0], p.queue[1:]
	}
	p.held.Store(next)
	unused := held.end()
	p.unused += unused
	return append(over, endedUnits{held.grantID, unused, expired})
}

// isIdle is whether no unit was spent for so long that they are better returned.
func (p *pool) isIdle(now time.Duration) bool {
	if p.seenAt+p.idleTime() > now {
		return false
	}
	before := p.seen
	p.seen, p.seenAt = p.spent(), now
	return before == p.seen
}

// endsWithin is whether the units are about to expire while calls that need some come often.
func (p *pool) endsWithin(margin, now time.Duration) bool {
	held := p.held.Load()
	return held != nil && len(p.queue) == 0 && held.expires-margin <= now && now < held.expires &&
		p.demand.within(p.horizon) >= often && p.spent() > p.seen
}

// nextCheck is when it may be idle, or its units are about to expire within the margin. It is not empty.
func (p *pool) nextCheck(margin time.Duration) time.Duration {
	return min(p.seenAt+p.idleTime(), p.held.Load().expires-margin)
}

func (p *pool) idleTime() time.Duration {
	return max(minIdle, p.horizon/4, p.demand.gap(4*p.horizon/idleGaps)*idleGaps)
}
