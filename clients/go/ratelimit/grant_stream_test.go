//go:build go1.25

package ratelimit

import (
	"testing"
	"time"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// A request that a call waits for is sent at once, or with others as soon as the service has responded to those before it, and one that
// only asks ahead after a small part of the time for which it does.
func TestRequestsWaitForEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		stream := &grantStream{wake: make(chan struct{}, 1), open: &openStream{}}
		urgent := &inFlight{request: &ratelimitv1.GrantRequest{}, isUrgent: true}
		ahead := func(horizon time.Duration) *inFlight {
			return &inFlight{request: &ratelimitv1.GrantRequest{}, pool: &pool{horizon: horizon}}
		}
		expect := func(size int, wait time.Duration) {
			t.Helper()
			if batch, waits := stream.next(); len(batch) != size || waits != wait {
				t.Errorf("sends %d after %v, not %d after %v", len(batch), waits, size, wait)
			}
		}
		stream.add(ahead(500 * time.Millisecond))
		expect(0, 4*time.Millisecond)
		stream.add(urgent)
		expect(2, 0)
		stream.open.pending = []*grantBatch{{}}
		stream.add(ahead(500 * time.Millisecond))
		stream.add(urgent)
		stream.add(ahead(500 * time.Millisecond))
		expect(0, time.Millisecond)
		stream.open.pending = nil
		expect(3, 0)
		stream.open.pending = []*grantBatch{{}}
		stream.add(urgent)
		time.Sleep(time.Millisecond)
		expect(1, 0)
		stream.add(ahead(32 * time.Millisecond))
		expect(0, 500*time.Microsecond)
		for range maxBatch {
			stream.add(ahead(time.Second))
		}
		expect(maxBatch, 0)
		expect(1, 0)
	})
}
