package ratelimit

import (
	"math"
	"time"
)

const (
	// maxUnits is what one request may ask for.
	maxUnits = 1_000_000
	// growth bounds what is asked for by what was granted last: a few calls in one moment are no demand that lasts.
	growth = 4
	// minElapsed is the shortest time by which demand is measured.
	minElapsed = time.Millisecond
)

// demand is how many calls come in a second, and so how many units to ask for. The zero value knows nothing.
type demand struct {
	perNanosecond float64
	since         time.Duration
	calls         int64
	// last is the units that were granted last.
	last int64
}

// within is the calls that come within a time.
func (d *demand) within(span time.Duration) float64 { return d.perNanosecond * float64(span) }

// gap is the mean time between two calls, longest if they are not known to come as often.
func (d *demand) gap(longest time.Duration) time.Duration {
	if d.within(longest) <= 1 {
		return longest
	}
	return time.Duration(1 / d.perNanosecond)
}

// wants is the units to ask for, after so many calls in all, for those of them that wait and those that come within a time ahead.
// Demand rises at once, and falls by the part of the horizon that has passed since the last request.
func (d *demand) wants(now time.Duration, calls, waiting int64, horizon, ahead time.Duration) int64 {
	if d.calls > 0 && horizon > 0 {
		elapsed := float64(max(now-d.since, minElapsed))
		more := float64(max(calls-d.calls, 0))/elapsed - d.perNanosecond
		if more < 0 {
			more *= min(1, elapsed/float64(horizon))
		}
		d.perNanosecond += more
	}
	d.since, d.calls = now, calls
	expected := min(int64(math.Round(min(d.within(ahead), maxUnits))), growth*d.last)
	return min(max(expected+waiting, 1), maxUnits)
}
