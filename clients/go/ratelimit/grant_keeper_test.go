//go:build go1.25

package ratelimit

import (
	"testing"
	"testing/synctest"
	"time"
)

// A key is examined once for each time at which it is due, up to a tick later, also beyond all slots and while the keeper naps.
func TestKeysAreExaminedWhenDue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		began := time.Now()
		now := func() time.Duration { return time.Since(began) }
		examined := make(chan dueKey, 10)
		keeper := newGrantKeeper(now, func(key *grantKey, due, at time.Duration) {
			if key == nil || at < due || at > due+keeperTick || at != now() {
				t.Errorf("examined at %v what was due at %v", at, due)
			}
			examined <- dueKey{due, key}
		}, func() {})
		go keeper.run()
		defer keeper.stop()
		for _, round := range []struct{ due []time.Duration }{
			{due: []time.Duration{5 * time.Second, 900 * time.Millisecond, 300 * time.Microsecond, 301 * time.Microsecond}},
			{due: []time.Duration{7 * time.Second, 50 * time.Millisecond, 1500 * time.Millisecond}},
		} {
			since := now()
			for _, due := range round.due {
				keeper.schedule(new(grantKey), since+due)
				time.Sleep(10 * time.Microsecond)
			}
			synctest.Wait()
			time.Sleep(8 * time.Second)
			synctest.Wait()
			if len(examined) != len(round.due) {
				t.Fatalf("examined %d keys of %d", len(examined), len(round.due))
			}
			for range round.due {
				<-examined
			}
		}
	})
}

// After a long quiet time it begins with the tick of now: it would examine all slots again and again until then.
func TestTheKeeperSkipsQuietTimes(t *testing.T) {
	now := time.Duration(0)
	keeper := newGrantKeeper(func() time.Duration { return now }, func(*grantKey, time.Duration, time.Duration) {}, func() {})
	now = 30 * 24 * time.Hour
	if tick := keeper.put(dueKey{now + time.Hour, new(grantKey)}); tick != int64(now/keeperTick)+keeperSlots-1 {
		t.Errorf("due in the slot of tick %d, and now is %d", tick, now/keeperTick)
	}
}
