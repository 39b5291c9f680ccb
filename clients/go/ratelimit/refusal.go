package ratelimit

import (
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	quotaExceeded      = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	quotaExceededTitle = "Request cannot be satisfied as assigned quota has been exceeded"
)

// Refusal is the response to a caller whose call may not proceed, over HTTP or gRPC.
type Refusal struct {
	// HTTPStatus is 400, 401, 403, 429 or 503.
	HTTPStatus int
	// Code is the gRPC status code.
	Code codes.Code
	// Reason is for programs: the name of a Reason or of a ratelimit.v1.ErrorReason, or KEY_MISSING.
	Reason string
	// Detail is for people.
	Detail string

	decision Decision // the zero value when there is none
}

// Problem is a body of type application/problem+json (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Reason string `json:"reason"`
	// ViolatedPolicies is, with 429, the enforced limits that deny, in the plan's order.
	ViolatedPolicies []string `json:"violated-policies,omitzero"`
}

// RefusalForDecision is the response to a denial. The second result is false when the call may proceed.
func RefusalForDecision(decision Decision) (Refusal, bool) {
	if decision.Allowed {
		return Refusal{}, false
	}
	refusal := Refusal{Reason: decision.Reason.String(), decision: decision}
	refusal.HTTPStatus, refusal.Code, refusal.Detail = response(decision)
	return refusal, true
}

// RefusalForError is the response to an invalid call. The second result is false for any other error, which is not the
// caller's. An API key that cannot be sent is denied like any other that does not exist: KEY_UNKNOWN.
func RefusalForError(err error) (Refusal, bool) {
	var invalid *Error
	if !errors.As(err, &invalid) || invalid.Code != codes.InvalidArgument {
		return Refusal{}, false
	}
	if invalid.Field == "api_key" {
		return RefusalForDecision(Decision{Reason: ReasonKeyUnknown})
	}
	return Refusal{
		HTTPStatus: http.StatusBadRequest,
		Code:       codes.InvalidArgument,
		Reason:     invalid.Reason,
		Detail:     invalid.Message,
	}, true
}

// RefusalForMissingKey is the response to a call without an API key.
func RefusalForMissingKey() Refusal {
	return Refusal{
		HTTPStatus: http.StatusUnauthorized,
		Code:       codes.Unauthenticated,
		Reason:     "KEY_MISSING",
		Detail:     "No API key was sent.",
	}
}

// Headers is those of the decision in the given style, and `WWW-Authenticate` with 401.
func (r Refusal) Headers(style HeaderStyle) map[string]string {
	headers := LimitHeaders(r.decision, style)
	if r.HTTPStatus == http.StatusUnauthorized {
		headers["WWW-Authenticate"] = "ApiKey" // RFC 9110 requires a challenge with every 401
	}
	return headers
}

// Problem is the body of the HTTP response.
func (r Refusal) Problem() Problem {
	problem := Problem{
		Type:   "about:blank",
		Title:  http.StatusText(r.HTTPStatus),
		Status: r.HTTPStatus,
		Detail: r.Detail,
		Reason: r.Reason,
	}
	if r.HTTPStatus == http.StatusTooManyRequests {
		problem.Type, problem.Title = quotaExceeded, quotaExceededTitle
		problem.ViolatedPolicies = []string{}
		for _, limit := range r.decision.Limits {
			if limit.WouldDeny && !limit.Shadow {
				problem.ViolatedPolicies = append(problem.ViolatedPolicies, limit.Name)
			}
		}
	}
	return problem
}

// GRPCStatus is the status of the gRPC response, with the reason in an ErrorInfo and the wait, if there is one, in a
// RetryInfo.
func (r Refusal) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Reason: r.Reason, Domain: "ratelimit.v1"}
	if r.decision.Limit != "" {
		info.Metadata = map[string]string{"limit": r.decision.Limit}
	}
	details := []protoadapt.MessageV1{info}
	if r.decision.RetryAfter != nil {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(*r.decision.RetryAfter)})
	}
	plain := status.New(r.Code, r.Detail)
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return detailed
}

func response(decision Decision) (httpStatus int, code codes.Code, detail string) {
	switch decision.Reason {
	case ReasonOverLimit:
		detail = fmt.Sprintf("Over the limit %q.", decision.Limit)
		if seconds, waits := retryAfterSeconds(decision); waits {
			detail = fmt.Sprintf("Over the limit %q; try again in %d s.", decision.Limit, seconds)
		}
		return http.StatusTooManyRequests, codes.ResourceExhausted, detail
	case ReasonCostExceedsCapacity:
		detail = fmt.Sprintf("The call costs more than the limit %q ever holds; do not try again.", decision.Limit)
		return http.StatusTooManyRequests, codes.ResourceExhausted, detail
	case ReasonKeyUnknown:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key is not known."
	case ReasonKeyRevoked:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key was revoked."
	case ReasonKeyExpired:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key has expired."
	case ReasonKeySuspended:
		return http.StatusForbidden, codes.PermissionDenied, "The API key is suspended."
	case ReasonDegradedDenied:
		return http.StatusServiceUnavailable, codes.Unavailable, "The rate limit could not be checked; try again."
	}
	return http.StatusForbidden, codes.PermissionDenied, "The call was denied."
}
