package ratelimit

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is an error that the service answered with.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Message says what went wrong, with which value, and what to do. For people.
	Message string
	// Reason is the name of a ratelimit.v1.ErrorReason. Empty when the answer has none.
	Reason string
	// Field is the first field at fault. Empty when no field is.
	Field string
}

// Error is the code and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("ratelimit: %s: %s", e.Code, e.Message)
}

// GRPCStatus lets status.Code and status.FromError read the code and the message.
func (e *Error) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

func errorOf(err error) *Error {
	answer := status.Convert(err)
	told := &Error{Code: answer.Code(), Message: answer.Message()}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			told.Reason = detail.Reason
		case *errdetails.BadRequest:
			if len(detail.FieldViolations) > 0 {
				told.Field = detail.FieldViolations[0].Field
			}
		}
	}
	return told
}

// isFault tells a fault of the service from an error that the caller or the setup caused. The latter never fails
// open: anybody who finds out how to cause one would pass.
func isFault(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.Aborted, codes.DataLoss,
		codes.Canceled:
		return true
	}
	return false
}
