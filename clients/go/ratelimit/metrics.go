package ratelimit

import "time"

// ClientMetrics gets every decision and every failure, in the goroutine of the call. Its methods must not block, and are
// called concurrently. Package ratelimitotel has one for OpenTelemetry.
type ClientMetrics interface {
	// Decided is called once for each call that has a decision, of the service, the cache or the client, with the time that
	// the whole call took.
	Decided(decision Decision, duration time.Duration)
	// Failed is called when the service failed and a counter of Failures was incremented. The outcome is the counter's name:
	// open, closed or unsettled.
	Failed(failure *Error, outcome string)
}

// noMetrics is for a client without any.
type noMetrics struct{}

func (noMetrics) Decided(Decision, time.Duration) {}
func (noMetrics) Failed(*Error, string)           {}
