package ratelimit

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// maxSettleAttempts is how often a settlement is sent at most: the service settles a reservation once, however often it gets
// that.
const maxSettleAttempts = 3

// OnError is what Reservation.Abandon settles.
type OnError string

// What Reservation.Abandon settles. Empty means OnErrorEstimate.
const (
	// OnErrorEstimate settles the estimate: the call may have taken all of it.
	OnErrorEstimate OnError = "ESTIMATE"
	// OnErrorNothing settles 0: the call took nothing.
	OnErrorNothing OnError = "NOTHING"
	// OnErrorHold sends nothing: the hold runs out, and the estimate stays charged. Settle can still follow until then.
	OnErrorHold OnError = "HOLD"
)

// ReserveRequest is one call whose cost is known when it has ended.
type ReserveRequest struct {
	// APIKey is the secret API key as the caller presented it. Exactly one of APIKey and KeyID is needed.
	APIKey string
	// KeyID is a key's public id, for a gateway that has verified the key itself. Needs a token of role gateway.
	KeyID string
	// Resource is what is being called: at most 256 bytes, no control characters. Empty matches only limits for "*".
	Resource string
	// Estimate is what is charged until the actual cost takes its place, in tokens: 0 to 9,007,199,254.
	Estimate uint64
	// Hold is 1 second to 1 hour: a reservation that is neither settled nor extended by then stays charged with its estimate.
	Hold time.Duration
	// RequestID makes the call idempotent: at most 128 bytes. If empty, the client generates one for its own retry.
	RequestID string
	// OnError is what Abandon settles. Empty means OnErrorEstimate.
	OnError OnError
	// NoExtend leaves the hold as it is. Otherwise it is extended in the background while the scope is open.
	NoExtend bool
}

func (r *ReserveRequest) check() *CheckRequest {
	return &CheckRequest{
		APIKey:    r.APIKey,
		KeyID:     r.KeyID,
		Resource:  r.Resource,
		Cost:      r.Estimate,
		RequestID: r.RequestID,
		hold:      durationpb.New(r.Hold),
	}
}

// Settlement is the result of settling a reservation.
type Settlement struct {
	// Settled is whether the service settled the reservation. If not, its estimate stays charged.
	Settled bool
	// Allowed is whether each enforced limit has a token left for the next call. That of the decision when it was not settled.
	Allowed bool
	// Clamped is the tokens of the actual cost that one of the limits did not take, since its overdraft was used up.
	Clamped uint64
	// Limits is the result of every limit that the reservation was charged to, in the plan's order. Empty if not settled.
	Limits []LimitResult
	// Failure is why it was not settled: the service failed, or the hold had ended. Nil when there was nothing to settle.
	Failure *Error
}

// Reservation is an estimate that was charged, until its actual cost takes its place. Its scope is open until Close, and its
// hold is extended in the background until then, so Close has to be called. It is safe for concurrent use.
type Reservation struct {
	// Decision is the decision on the estimate.
	Decision Decision
	// Allowed is whether the call may proceed.
	Allowed bool
	// ID is the service's id of the reservation, a secret. Empty when there is nothing to settle.
	ID string

	client  *Client
	request ReserveRequest
	// base is the context of Reserve, without its end: what ends the scope has to be sent all the same.
	base context.Context
	// settling is held by the one that settles, and gives up waiting with its context.
	settling chan struct{}

	mutex      sync.Mutex
	settlement *Settlement
	left       bool
	extension  *time.Timer
}

// Reserve decides one call by an estimate of its cost, and charges that until the actual cost takes its place. Defer Close,
// which ends the scope; call Settle with the actual cost, or Abandon when the call failed. Decision and errors are those of
// Check. The reservation is nil only with an error.
func (c *Client) Reserve(ctx context.Context, request ReserveRequest) (*Reservation, error) {
	decision, err := c.decide(ctx, request.check())
	if err != nil {
		return nil, err
	}
	r := &Reservation{
		Decision: decision,
		Allowed:  decision.Allowed,
		ID:       decision.reservationID,
		client:   c,
		request:  request,
		base:     context.WithoutCancel(ctx),
		settling: make(chan struct{}, 1),
	}
	if r.ID != "" && !request.NoExtend {
		r.mutex.Lock()
		r.extension = time.AfterFunc(request.Hold/2, r.extendInBackground)
		r.mutex.Unlock()
	}
	return r, nil
}

// Settle charges the actual cost, 0 to 9,007,199,254 tokens, in place of the estimate. The first settlement is final: any
// further call returns it and sends nothing. A failing service gets it up to three times, each with the client's deadline. If
// it fails then, or the hold has ended, there is no error: the settlement is not Settled, and Failures counts it. It returns
// an *Error for what the caller or the configuration has to fix, and the context's error; then it can be repeated.
func (r *Reservation) Settle(ctx context.Context, actual uint64) (Settlement, error) {
	if !r.isOpen() {
		return r.outcome(), nil
	}
	select {
	case r.settling <- struct{}{}:
		defer func() { <-r.settling }()
	case <-ctx.Done():
		return Settlement{}, ctx.Err()
	}
	if !r.isOpen() {
		return r.outcome(), nil
	}
	request := &ratelimitv1.SettleLimitRequest{ReservationId: r.ID, ActualCost: proto.Uint64(actual)}
	for attempt := 1; ; attempt++ {
		response, err := callOnce(ctx, r.client, ratelimitv1.RateLimitServiceClient.SettleLimit, request)
		if err == nil {
			return r.conclude(Settlement{
				Settled: true,
				Allowed: response.Allowed,
				Clamped: response.Clamped,
				Limits:  limitResults(response.Limits),
			}), nil
		}
		failure, isError := err.(*Error)
		unknown := isError && failure.isUnknownReservation()
		if !isError || !unknown && !failure.isFailure() {
			return Settlement{}, err
		}
		if unknown || attempt == maxSettleAttempts || failure.Reason == reasonOverloaded || r.client.closed.Load() {
			settlement := r.conclude(Settlement{Allowed: r.Allowed, Failure: failure})
			r.client.unsettled(failure)
			return settlement, nil
		}
	}
}

// Extend holds the reservation for that long from now on, at least: 1 second to 1 hour. It returns whether it succeeded: not
// when the service fails, or the hold has ended. It returns an *Error for what the caller or the configuration has to fix,
// and the context's error.
func (r *Reservation) Extend(ctx context.Context, hold time.Duration) (bool, error) {
	if !r.isOpen() {
		return false, nil
	}
	err := r.extend(ctx, hold)
	if failure, isError := err.(*Error); isError && (failure.isFailure() || failure.isUnknownReservation()) {
		return false, nil
	}
	return err == nil, err
}

// Close ends the scope: what was neither settled nor abandoned is settled at the estimate. It returns an *Error for what the
// configuration has to fix; never one for a failure of the service.
func (r *Reservation) Close() error {
	if !r.leave() {
		return nil
	}
	_, err := r.Settle(r.base, r.request.Estimate)
	return err
}

// Abandon ends the scope of a call that failed: what was not settled is settled as OnError of the request says. An error that
// Close would return is counted as unsettled. Close does nothing afterwards.
func (r *Reservation) Abandon() {
	if !r.leave() || r.request.OnError == OnErrorHold {
		return
	}
	actual := r.request.Estimate
	if r.request.OnError == OnErrorNothing {
		actual = 0
	}
	if _, err := r.Settle(r.base, actual); err != nil {
		if failure, isError := err.(*Error); isError {
			r.client.unsettled(failure)
		}
	}
}

// isOpen is whether there is something to settle.
func (r *Reservation) isOpen() bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.ID != "" && r.settlement == nil && !r.client.closed.Load()
}

// outcome is the settlement. Where there was nothing to settle, an unsettled one.
func (r *Reservation) outcome() Settlement {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.settlement != nil {
		return *r.settlement
	}
	return Settlement{Allowed: r.Allowed}
}

// conclude makes a settlement the final one.
func (r *Reservation) conclude(settlement Settlement) Settlement {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.settlement = &settlement
	r.stopExtensions()
	return settlement
}

// leave ends the scope, and returns whether it was open until now.
func (r *Reservation) leave() bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	wasOpen := !r.left
	r.left = true
	r.stopExtensions()
	return wasOpen
}

// stopExtensions is for callers that hold the mutex.
func (r *Reservation) stopExtensions() {
	if r.extension != nil {
		r.extension.Stop()
	}
}

func (r *Reservation) extend(ctx context.Context, hold time.Duration) error {
	request := &ratelimitv1.ExtendHoldRequest{ReservationId: r.ID, Hold: durationpb.New(hold)}
	_, err := callOnce(ctx, r.client, ratelimitv1.RateLimitServiceClient.ExtendHold, request)
	return err
}

// extendInBackground extends the hold once, and sets the timer for the next time.
func (r *Reservation) extendInBackground() {
	if !r.isOpen() {
		return
	}
	wait := r.request.Hold / 2
	if err := r.extend(r.base, r.request.Hold); err != nil {
		failure, isError := err.(*Error)
		if !isError || !failure.isFailure() {
			return
		}
		wait = r.request.Hold / 4
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if !r.left && r.settlement == nil {
		r.extension.Reset(wait)
	}
}
