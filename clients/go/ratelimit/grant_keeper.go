package ratelimit

import (
	"math"
	"sync"
	"time"
)

const (
	// maxNap is how long the keeper sleeps at most while something is due: the clock may be another one than that of timers.
	maxNap = 100 * time.Millisecond
	// reportEvery is how often metrics get what has changed.
	reportEvery = time.Second
	// keeperTick is by how much keys are examined late at most, so that the keeper wakes once for all that are due in it.
	keeperTick = time.Millisecond
	// keeperSlots is the ticks ahead for which there is a slot. A power of two.
	keeperSlots = 1024
)

// grantKeeper examines keys when they are due, in one goroutine, and reports to the metrics.
type grantKeeper struct {
	now    func() time.Duration
	check  func(key *grantKey, due, now time.Duration)
	report func()

	mutex sync.Mutex
	// slots is the keys that are due, by the tick at the end of which they are; those that are due later than all slots are in the last.
	slots [keeperSlots][]dueKey
	// count is the keys in all slots, with those that are due at another time since.
	count int
	// tick is the last one whose keys were examined, and napUntil the one for which the keeper sleeps.
	tick, napUntil int64
	// wake has the keeper examine what is due first.
	wake    chan struct{}
	ending  chan struct{}
	stopped chan struct{}
}

// dueKey is a key that is to be examined at a time.
type dueKey struct {
	due time.Duration
	key *grantKey
}

func newGrantKeeper(now func() time.Duration, check func(key *grantKey, due, now time.Duration), report func()) *grantKeeper {
	return &grantKeeper{
		now: now, check: check, report: report, napUntil: math.MaxInt64, tick: int64(now() / keeperTick),
		wake: make(chan struct{}, 1), ending: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// schedule has the keeper examine a key at that time, or up to a tick later.
func (k *grantKeeper) schedule(key *grantKey, due time.Duration) {
	k.mutex.Lock()
	tick := k.put(dueKey{due, key})
	isFirst := tick < k.napUntil
	if isFirst {
		k.napUntil = tick
	}
	k.mutex.Unlock()
	if isFirst {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// put returns the tick of the slot of a key.
func (k *grantKeeper) put(one dueKey) int64 {
	if k.count == 0 { // nothing was due for so long
		k.tick = max(k.tick, int64(k.now()/keeperTick))
	}
	tick := int64((one.due + keeperTick - 1) / keeperTick)
	tick = min(max(tick, k.tick+1), k.tick+keeperSlots-1)
	slot := &k.slots[tick%keeperSlots]
	*slot = append(*slot, one)
	k.count++
	return tick
}

// run is the goroutine, until stop.
func (k *grantKeeper) run() {
	defer close(k.stopped)
	reports := time.NewTicker(reportEvery)
	defer reports.Stop()
	nap := time.NewTimer(0)
	defer nap.Stop()
	for {
		select {
		case <-k.ending:
			return
		case <-reports.C:
			k.report()
			continue
		case <-k.wake:
		case <-nap.C:
		}
		if next, some := k.checkDue(); some {
			nap.Reset(min(max(next-k.now(), 0), maxNap))
		}
	}
}

// stop ends the goroutine, and returns once it has ended.
func (k *grantKeeper) stop() {
	close(k.ending)
	<-k.stopped
}

// checkDue examines all keys that are due, and returns when the next one may be.
func (k *grantKeeper) checkDue() (next time.Duration, some bool) {
	for {
		k.mutex.Lock()
		now := k.now()
		due, ends := k.nextSlot(int64(now / keeperTick))
		k.mutex.Unlock()
		if due == nil {
			return time.Duration(ends) * keeperTick, ends < math.MaxInt64
		}
		for _, one := range due {
			if one.due <= now {
				k.check(one.key, one.due, now)
				continue
			}
			k.schedule(one.key, one.due) // it is due later than any slot was
		}
	}
}

// nextSlot takes the keys of the next slot that has some, if it is not after that tick. Otherwise it returns nil, and the tick of that
// slot, for which the keeper is to sleep: math.MaxInt64 if there is none.
func (k *grantKeeper) nextSlot(now int64) (due []dueKey, tick int64) {
	k.napUntil = math.MaxInt64
	if k.count == 0 {
		k.tick = max(k.tick, now)
		return nil, math.MaxInt64
	}
	for tick = k.tick + 1; len(k.slots[tick%keeperSlots]) == 0; tick++ {
	}
	if tick > now {
		k.tick, k.napUntil = max(k.tick, now), tick
		return nil, tick
	}
	slot := &k.slots[tick%keeperSlots]
	due, *slot = *slot, nil
	k.count -= len(due)
	k.tick = tick
	return due, tick
}
