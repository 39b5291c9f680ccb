package ratelimit

import (
	"container/heap"
	"sync"
	"time"
)

// maxNap is how long the keeper sleeps at most while something is due: the clock may be another one than that of timers.
const maxNap = 100 * time.Millisecond

// reportEvery is how often metrics get what has changed.
const reportEvery = time.Second

// grantKeeper examines keys when they are due, in one goroutine, and reports to the metrics.
type grantKeeper struct {
	now    func() time.Duration
	check  func(key *grantKey, due, now time.Duration)
	report func()

	mutex sync.Mutex
	due   dueKeys
	// wake has the keeper examine what is due first.
	wake    chan struct{}
	ending  chan struct{}
	stopped chan struct{}
}

func newGrantKeeper(now func() time.Duration, check func(key *grantKey, due, now time.Duration), report func()) *grantKeeper {
	return &grantKeeper{
		now: now, check: check, report: report,
		wake: make(chan struct{}, 1), ending: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// schedule has the keeper examine a key at that time.
func (k *grantKeeper) schedule(key *grantKey, due time.Duration) {
	k.mutex.Lock()
	heap.Push(&k.due, dueKey{due, key})
	isFirst := k.due[0].due == due
	k.mutex.Unlock()
	if isFirst {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
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

// checkDue examines all keys that are due, and returns when the next one is.
func (k *grantKeeper) checkDue() (next time.Duration, some bool) {
	for {
		k.mutex.Lock()
		now := k.now()
		if len(k.due) == 0 || k.due[0].due > now {
			if len(k.due) > 0 {
				next, some = k.due[0].due, true
			}
			k.mutex.Unlock()
			return next, some
		}
		first := heap.Pop(&k.due).(dueKey)
		k.mutex.Unlock()
		k.check(first.key, first.due, now)
	}
}

type dueKey struct {
	due time.Duration
	key *grantKey
}

// dueKeys is a heap.
type dueKeys []dueKey

func (d dueKeys) Len() int           { return len(d) }
func (d dueKeys) Less(i, j int) bool { return d[i].due < d[j].due }
func (d dueKeys) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueKeys) Push(one any)      { *d = append(*d, one.(dueKey)) }

func (d *dueKeys) Pop() any {
	last := len(*d) - 1
	one := (*d)[last]
	(*d)[last] = dueKey{}
	*d = (*d)[:last]
	return one
}
