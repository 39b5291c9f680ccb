package ratelimit

import "sync/atomic"

// Failures is how many calls failed open and closed, and how many reservations stayed unsettled, since the client was created.
// For your metrics.
type Failures struct {
	// Open is how many calls were allowed because the service failed.
	Open uint64
	// Closed is how many calls were denied because the service failed.
	Closed uint64
	// Unsettled is how many reservations could not be settled: the service failed, or their holds had ended.
	Unsettled uint64
}

// The outcomes of failures, by the names of their counters.
const (
	outcomeOpen      = "open"
	outcomeClosed    = "closed"
	outcomeUnsettled = "unsettled"
)

// failureCounter counts for all goroutines.
type failureCounter struct {
	open      atomic.Uint64
	closed    atomic.Uint64
	unsettled atomic.Uint64
}

func (f *failureCounter) count(outcome string) {
	switch outcome {
	case outcomeOpen:
		f.open.Add(1)
	case outcomeClosed:
		f.closed.Add(1)
	case outcomeUnsettled:
		f.unsettled.Add(1)
	}
}

func (f *failureCounter) snapshot() Failures {
	return Failures{Open: f.open.Load(), Closed: f.closed.Load(), Unsettled: f.unsettled.Load()}
}
