package ratelimit

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// Reason says why a call was allowed or denied.
type Reason = ratelimitv1.CheckLimitResponse_Reason

// The reasons.
const (
	WithinLimit         = ratelimitv1.CheckLimitResponse_WITHIN_LIMIT
	OverLimit           = ratelimitv1.CheckLimitResponse_OVER_LIMIT
	CostExceedsCapacity = ratelimitv1.CheckLimitResponse_COST_EXCEEDS_CAPACITY
	KeyUnknown          = ratelimitv1.CheckLimitResponse_KEY_UNKNOWN
	KeyRevoked          = ratelimitv1.CheckLimitResponse_KEY_REVOKED
	KeySuspended        = ratelimitv1.CheckLimitResponse_KEY_SUSPENDED
	KeyExpired          = ratelimitv1.CheckLimitResponse_KEY_EXPIRED
	DegradedAllowed     = ratelimitv1.CheckLimitResponse_DEGRADED_ALLOWED
	DegradedDenied      = ratelimitv1.CheckLimitResponse_DEGRADED_DENIED
)

// Source says what a decision rests on.
type Source = ratelimitv1.CheckLimitResponse_Source

// The sources.
const (
	SourceStore    = ratelimitv1.CheckLimitResponse_STORE
	SourcePolicy   = ratelimitv1.CheckLimitResponse_POLICY
	SourceDegraded = ratelimitv1.CheckLimitResponse_DEGRADED
)

// Origin says who decided.
type Origin string

// The origins.
const (
	// FromService means that the service answered.
	FromService Origin = "SERVICE"
	// FromCache means that the client remembered a denial of the service; nothing was sent.
	FromCache Origin = "CACHE"
	// FromFallback means that the service could not be asked, and the client decided by its options.
	FromFallback Origin = "FALLBACK"
)

// Decision is the answer on one call.
type Decision struct {
	// Allowed says whether the call may go on.
	Allowed bool
	// Reason says why.
	Reason Reason
	// Source says what the decision rests on.
	Source Source
	// Origin says who decided.
	Origin Origin
	// KeyID, Subject and Plan are the key's. Empty when the key is unknown.
	KeyID, Subject, Plan string
	// Limit is the binding limit's name. Empty when no limit was weighed.
	Limit string
	// Remaining is what the binding limit has left after this call, in whole tokens.
	Remaining int64
	// RetryAfter is how long until the same call fits every limit, if no other call comes before it. Nil when the
	// call was allowed, and when no wait would help.
	RetryAfter *time.Duration
	// Limits is every limit that was weighed, in the plan's order.
	Limits []WeighedLimit
	// Failure is why the service could not be asked. Nil unless Origin is FromFallback.
	Failure error
}

// WeighedLimit is what one limit said of a call.
type WeighedLimit struct {
	// Name is the limit's name.
	Name string
	// Limit is the bucket's capacity or the quota's amount, in tokens.
	Limit int64
	// Remaining is what is left after this call, in whole tokens: 0 or more.
	Remaining int64
	// ResetAfter is how long until the limit is untouched again. Zero when it is so now.
	ResetAfter time.Duration
	// RetryAfter is how long until a call of this cost fits. Nil when it fits now, and when it never will.
	RetryAfter *time.Duration
	// WouldDeny says that the call does not fit. Only an enforced limit then denies it.
	WouldDeny bool
	// Shadow says that the limit only reports.
	Shadow bool
	// Window is the time in which the limit refills or starts afresh.
	Window time.Duration
}

func decisionOf(answer *ratelimitv1.CheckLimitResponse) Decision {
	decision := Decision{
		Allowed:    answer.Allowed,
		Reason:     answer.Reason,
		Source:     answer.Source,
		Origin:     FromService,
		KeyID:      answer.KeyId,
		Subject:    answer.Subject,
		Plan:       answer.Plan,
		Limit:      answer.Limit,
		Remaining:  answer.Remaining,
		RetryAfter: wait(answer.RetryAfter),
	}
	if len(answer.Limits) > 0 {
		decision.Limits = make([]WeighedLimit, len(answer.Limits))
		for i, limit := range answer.Limits {
			decision.Limits[i] = WeighedLimit{
				Name:       limit.Name,
				Limit:      limit.Limit,
				Remaining:  limit.Remaining,
				ResetAfter: limit.ResetAfter.AsDuration(),
				RetryAfter: wait(limit.RetryAfter),
				WouldDeny:  limit.WouldDeny,
				Shadow:     limit.Shadow,
				Window:     limit.Window.AsDuration(),
			}
		}
	}
	return decision
}

func wait(message *durationpb.Duration) *time.Duration {
	if message == nil {
		return nil
	}
	duration := message.AsDuration()
	return &duration
}

// after is the decision as it stands once some time has passed: every wait is shorter by that, none below zero.
func (d Decision) after(passed time.Duration) Decision {
	d.RetryAfter = shorter(d.RetryAfter, passed)
	limits := make([]WeighedLimit, len(d.Limits))
	for i, limit := range d.Limits {
		limit.ResetAfter = max(0, limit.ResetAfter-passed)
		limit.RetryAfter = shorter(limit.RetryAfter, passed)
		limits[i] = limit
	}
	d.Limits = limits
	return d
}

func shorter(wait *time.Duration, passed time.Duration) *time.Duration {
	if wait == nil {
		return nil
	}
	left := max(0, *wait-passed)
	return &left
}
