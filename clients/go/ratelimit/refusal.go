package ratelimit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	quotaExceededType  = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	quotaExceededTitle = "Request cannot be satisfied as assigned quota has been exceeded"
)

// Refusal is what to answer a caller whose call may not go on, over HTTP or gRPC.
type Refusal struct {
	// HTTPStatus is 400, 401, 403, 429 or 503.
	HTTPStatus int
	// Code is the gRPC status code.
	Code codes.Code
	// Reason is a name for programs: that of a Reason or of a ratelimit.v1.ErrorReason, or KEY_MISSING.
	Reason string
	// Detail is for people.
	Detail string

	limit      string
	retryAfter *time.Duration
	violated   []string
}

// MissingKey refuses a call that came without an API key.
func MissingKey() Refusal {
	return Refusal{
		HTTPStatus: http.StatusUnauthorized,
		Code:       codes.Unauthenticated,
		Reason:     "KEY_MISSING",
		Detail:     "No API key was sent.",
	}
}

// Refusal is what to answer the caller. The second result is false when the call may go on.
func (d Decision) Refusal() (Refusal, bool) {
	if d.Allowed {
		return Refusal{}, false
	}
	refusal := Refusal{Reason: d.Reason.String(), limit: d.Limit, retryAfter: d.RetryAfter}
	refusal.HTTPStatus, refusal.Code, refusal.Detail = d.told()
	if refusal.HTTPStatus == http.StatusTooManyRequests {
		refusal.violated = []string{}
		for _, limit := range d.Limits {
			if limit.WouldDeny && !limit.Shadow {
				refusal.violated = append(refusal.violated, limit.Name)
			}
		}
	}
	return refusal, true
}

func (d Decision) told() (httpStatus int, code codes.Code, detail string) {
	switch d.Reason {
	case OverLimit:
		detail = fmt.Sprintf("Over the limit %q.", d.Limit)
		if seconds, waits := d.retryAfterSeconds(); waits {
			detail = fmt.Sprintf("Over the limit %q; try again in %d s.", d.Limit, seconds)
		}
		return http.StatusTooManyRequests, codes.ResourceExhausted, detail
	case CostExceedsCapacity:
		detail = fmt.Sprintf("The call costs more than the limit %q ever holds; do not try again.", d.Limit)
		return http.StatusTooManyRequests, codes.ResourceExhausted, detail
	case KeyUnknown:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key is not known."
	case KeyRevoked:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key was revoked."
	case KeyExpired:
		return http.StatusUnauthorized, codes.Unauthenticated, "The API key has expired."
	case KeySuspended:
		return http.StatusForbidden, codes.PermissionDenied, "The API key is suspended."
	case DegradedDenied:
		return http.StatusServiceUnavailable, codes.Unavailable, "The rate limit could not be checked; try again."
	}
	return http.StatusForbidden, codes.PermissionDenied, "The call was denied."
}

// RefusalOf is what to answer the caller when Client.Check returned an error for which the caller is to blame: a
// request that the service calls malformed. The second result is false for every other error.
func RefusalOf(err error) (Refusal, bool) {
	var told *Error
	if !errors.As(err, &told) || told.Code != codes.InvalidArgument {
		return Refusal{}, false
	}
	refusal := Refusal{
		HTTPStatus: http.StatusBadRequest,
		Code:       codes.InvalidArgument,
		Reason:     told.Reason,
		Detail:     told.Message,
	}
	if told.Field == "api_key" {
		refusal.HTTPStatus, refusal.Code = http.StatusUnauthorized, codes.Unauthenticated
		refusal.Detail = "The API key is malformed."
	}
	return refusal, true
}

// Problem is the body of the HTTP answer, of type application/problem+json (RFC 9457).
func (r Refusal) Problem() []byte {
	problem := struct {
		Type     string   `json:"type"`
		Title    string   `json:"title"`
		Status   int      `json:"status"`
		Detail   string   `json:"detail"`
		Reason   string   `json:"reason"`
		Violated []string `json:"violated-policies,omitzero"`
	}{"about:blank", http.StatusText(r.HTTPStatus), r.HTTPStatus, r.Detail, r.Reason, r.violated}
	if r.HTTPStatus == http.StatusTooManyRequests {
		problem.Type, problem.Title = quotaExceededType, quotaExceededTitle
	}
	// Strings and integers always encode.
	body, _ := json.Marshal(problem)
	return body
}

// GRPCStatus is the gRPC answer, with the reason in an ErrorInfo and the wait, if there is one, in a RetryInfo.
func (r Refusal) GRPCStatus() *status.Status {
	info := &errdetails.ErrorInfo{Reason: r.Reason, Domain: "ratelimit.v1"}
	if r.limit != "" {
		info.Metadata = map[string]string{"limit": r.limit}
	}
	details := []protoadapt.MessageV1{info}
	if r.retryAfter != nil {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(*r.retryAfter)})
	}
	plain := status.New(r.Code, r.Detail)
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return detailed
}
