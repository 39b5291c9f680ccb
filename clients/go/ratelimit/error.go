package ratelimit

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is an error that the service responded with, or the reason why there is no response.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Message is what is wrong, with which value, and what to do. For people.
	Message string
	// Reason is the name of a ratelimit.v1.ErrorReason, such as INVALID_FIELD. Empty when there is none.
	Reason string
	// Field is the first invalid field, such as cost. Empty when there is none.
	Field string
}

// Error is the code and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("ratelimit: %s: %s", e.Code, e.Message)
}

// isFailure is whether the service failed. Any other error is for the caller or the owner of the client to fix. Those never
// fail open: a caller who finds out how to cause one could bypass the limits.
func (e *Error) isFailure() bool {
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.Aborted, codes.DataLoss,
		codes.Canceled:
		return true
	}
	return false
}

// isWorthRepeating is whether the call may succeed when it is sent again at once.
func (e *Error) isWorthRepeating() bool {
	return e.Code == codes.Unavailable && e.Reason != reasonOverloaded
}

// isUnknownReservation is whether the service has no such reservation. NOT_FOUND alone may come from a proxy.
func (e *Error) isUnknownReservation() bool {
	return e.Code == codes.NotFound && e.Reason == "RESERVATION_NOT_FOUND"
}

// errorOf is the error for the status of a call.
func errorOf(err error) *Error {
	response := status.Convert(err)
	result := &Error{Code: response.Code(), Message: response.Message()}
	for _, detail := range response.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			result.Reason = detail.Reason
		case *errdetails.BadRequest:
			if len(detail.FieldViolations) > 0 {
				result.Field = detail.FieldViolations[0].Field
			}
		}
	}
	return result
}

// clientIsClosed is the error of a call after Close. It never fails open: to close the client is a decision of its owner.
func clientIsClosed() *Error {
	return &Error{Code: codes.FailedPrecondition, Message: "the client is closed"}
}

// invalidField is the error for a field with a problem, in the form of the service's own.
func invalidField(field, problem string) *Error {
	return &Error{Code: codes.InvalidArgument, Message: field + ": " + problem, Reason: "INVALID_FIELD", Field: field}
}
