package ratelimit

import "time"

// ClientMetrics gets every decision and every failure. Its methods must not block, and are called concurrently. Package
// ratelimitotel has one for OpenTelemetry.
type ClientMetrics interface {
	// Decided is called once for each call that has a decision, of the service, the cache or the client, with the time that
	// the whole call took, in the goroutine of the call. It is not called for those that Granted has.
	Decided(decision Decision, duration time.Duration)
	// Failed is called when the service failed and a counter of Failures was incremented. The outcome is the counter's name:
	// open, closed or unsettled. Called in the goroutine of the call.
	Failed(failure *Error, outcome string)
	// Granted is called in ModeGranted, about once a second and by Client.Close, with how much each of Client.Grants has changed.
	// Allowed and Denied are calls that were decided without waiting.
	Granted(change Grants)
}

// noMetrics is for a client without any.
type noMetrics struct{}

func (noMetrics) Decided(Decision, time.Duration) {}
func (noMetrics) Failed(*Error, string)           {}
func (noMetrics) Granted(Grants)                  {}
