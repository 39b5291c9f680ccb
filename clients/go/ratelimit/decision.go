package ratelimit

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// Reason is why a call was allowed or denied.
type Reason = ratelimitv1.CheckLimitResponse_Reason

// The reasons.
const (
	ReasonUnspecified         = ratelimitv1.CheckLimitResponse_REASON_UNSPECIFIED
	ReasonWithinLimit         = ratelimitv1.CheckLimitResponse_WITHIN_LIMIT
	ReasonOverLimit           = ratelimitv1.CheckLimitResponse_OVER_LIMIT
	ReasonCostExceedsCapacity = ratelimitv1.CheckLimitResponse_COST_EXCEEDS_CAPACITY
	ReasonKeyUnknown          = ratelimitv1.CheckLimitResponse_KEY_UNKNOWN
	ReasonKeyRevoked          = ratelimitv1.CheckLimitResponse_KEY_REVOKED
	ReasonKeySuspended        = ratelimitv1.CheckLimitResponse_KEY_SUSPENDED
	ReasonKeyExpired          = ratelimitv1.CheckLimitResponse_KEY_EXPIRED
	ReasonDegradedAllowed     = ratelimitv1.CheckLimitResponse_DEGRADED_ALLOWED
	ReasonDegradedDenied      = ratelimitv1.CheckLimitResponse_DEGRADED_DENIED
)

// Source is what a decision is based on.
type Source = ratelimitv1.CheckLimitResponse_Source

// The sources.
const (
	SourceUnspecified = ratelimitv1.CheckLimitResponse_SOURCE_UNSPECIFIED
	SourceStore       = ratelimitv1.CheckLimitResponse_STORE
	SourcePolicy      = ratelimitv1.CheckLimitResponse_POLICY
	SourceDegraded    = ratelimitv1.CheckLimitResponse_DEGRADED
	SourceUnenforced  = ratelimitv1.CheckLimitResponse_UNENFORCED
	SourceGrant       = ratelimitv1.CheckLimitResponse_GRANT
	SourceMemory      = ratelimitv1.CheckLimitResponse_MEMORY
)

// Origin is who decided.
type Origin string

// The origins.
const (
	// OriginService means that the service responded.
	OriginService Origin = "SERVICE"
	// OriginCache means that the client had cached a denial of the service; nothing was sent.
	OriginCache Origin = "CACHE"
	// OriginFallback means that the service failed; the client decided by its option WithFailOpen.
	OriginFallback Origin = "FALLBACK"
	// OriginGrant means that the client allowed the call by a unit that the service had granted to it; nothing was sent for it.
	OriginGrant Origin = "GRANT"
)

// Decision is whether a call may proceed, and why.
type Decision struct {
	// Allowed is whether the call may proceed.
	Allowed bool
	// Reason is why.
	Reason Reason
	// Source is what the decision is based on.
	Source Source
	// Origin is who decided.
	Origin Origin
	// KeyID is the key's public id. Empty when the key is unknown.
	KeyID string
	// Subject is the owner of the limits. Empty when the key is unknown.
	Subject string
	// Plan is the key's plan. Empty when the key is unknown.
	Plan string
	// Limit is the binding limit's name. Empty when no limit was evaluated.
	Limit string
	// Remaining is the whole tokens that the binding limit has left after this call. 0 when no limit was evaluated.
	Remaining int64
	// RetryAfter is how long until the same call fits every limit, if no other call comes first. Nil when the call was
	// allowed, and when waiting would not help.
	RetryAfter *time.Duration
	// Limits is the result of every limit that was evaluated, in the plan's order. With OriginGrant as they were when the units
	// were granted, and shared with other decisions: do not change them.
	Limits []LimitResult
	// Failure is why the service failed. Nil unless the origin is OriginFallback.
	Failure *Error

	// reservationID belongs to the Reservation.
	reservationID string
}

// Degraded is whether the limits' state was not available: the client decided, or the service did without its store.
func (d Decision) Degraded() bool { return d.Source == SourceDegraded }

// LimitResult is the result of evaluating one limit.
type LimitResult struct {
	// Name is the limit's name.
	Name string
	// Limit is the bucket's capacity or the quota's amount, in tokens.
	Limit int64
	// Remaining is the whole tokens left after this call, negative only for a limit with an overdraft.
	Remaining int64
	// ResetAfter is how long until the limit is back to its full amount. 0 when it is now.
	ResetAfter time.Duration
	// RetryAfter is how long until a call of this cost fits. Nil when it fits now, and when it never will.
	RetryAfter *time.Duration
	// WouldDeny is whether the call does not fit. Only an enforced limit then denies it.
	WouldDeny bool
	// Shadow is whether the limit is only reported, not enforced.
	Shadow bool
	// Window is the time in which the limit refills or starts over.
	Window time.Duration
}

func decisionOf(response *ratelimitv1.CheckLimitResponse) Decision {
	return Decision{
		Allowed:    response.Allowed,
		Reason:     response.Reason,
		Source:     response.Source,
		Origin:     OriginService,
		KeyID:      response.KeyId,
		Subject:    response.Subject,
		Plan:       response.Plan,
		Limit:      response.Limit,
		Remaining:  response.Remaining,
		RetryAfter: optionalDuration(response.RetryAfter),
		Limits:     limitResults(response.Limits),

		reservationID: response.ReservationId,
	}
}

// limitResults is nil if there are none.
func limitResults(limits []*ratelimitv1.LimitResult) []LimitResult {
	if len(limits) == 0 {
		return nil
	}
	results := make([]LimitResult, len(limits))
	for i, limit := range limits {
		results[i] = LimitResult{
			Name:       limit.Name,
			Limit:      limit.Limit,
			Remaining:  limit.Remaining,
			ResetAfter: limit.ResetAfter.AsDuration(),
			RetryAfter: optionalDuration(limit.RetryAfter),
			WouldDeny:  limit.WouldDeny,
			Shadow:     limit.Shadow,
			Window:     limit.Window.AsDuration(),
		}
	}
	return results
}

func optionalDuration(message *durationpb.Duration) *time.Duration {
	if message == nil {
		return nil
	}
	duration := message.AsDuration()
	return &duration
}

// after is the decision with every wait shortened by the time elapsed, none below zero.
func (d Decision) after(elapsed time.Duration) Decision {
	d.RetryAfter = shortened(d.RetryAfter, elapsed)
	limits := make([]LimitResult, len(d.Limits))
	for i, limit := range d.Limits {
		limit.ResetAfter = max(0, limit.ResetAfter-elapsed)
		limit.RetryAfter = shortened(limit.RetryAfter, elapsed)
		limits[i] = limit
	}
	d.Limits = limits
	return d
}

func shortened(wait *time.Duration, elapsed time.Duration) *time.Duration {
	if wait == nil {
		return nil
	}
	left := max(0, *wait-elapsed)
	return &left
}
