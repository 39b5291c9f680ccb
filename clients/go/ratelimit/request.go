package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// Request is one call to decide.
type Request struct {
	// APIKey is the secret API key as the caller presented it. Exactly one of APIKey and KeyID is needed.
	APIKey string
	// KeyID is a key's public id, for gateways that have verified the secret themselves. Needs a token of role gateway.
	KeyID string
	// Resource is what is being called: at most 256 bytes, no control characters. Empty matches only limits for "*".
	Resource string
	// Cost is how many tokens the call takes: 1 to 1,000,000. Zero means 1; Client.Look asks without taking any.
	Cost uint32
	// RequestID makes the call idempotent: at most 128 bytes. Empty means a fresh one for each call, so that a retry
	// of the client is never charged twice. A gateway that may ask again itself sends its own, and then the
	// service is always asked, never the cache.
	RequestID string
}

// message is the request on the wire, at the given cost and always with a request id.
func (r *Request) message(cost uint32) *ratelimitv1.CheckLimitRequest {
	message := &ratelimitv1.CheckLimitRequest{Resource: r.Resource, RequestId: r.RequestID}
	if cost != 1 {
		message.Cost = &cost
	}
	if r.KeyID != "" {
		message.Credential = &ratelimitv1.CheckLimitRequest_KeyId{KeyId: r.KeyID}
	} else {
		message.Credential = &ratelimitv1.CheckLimitRequest_ApiKey{ApiKey: r.APIKey}
	}
	if message.RequestId == "" {
		message.RequestId = newRequestID()
	}
	return message
}

// largestMessage is how many bytes of a message the service takes.
const largestMessage = 64 * 1024

// fault is what cannot be sent at all. It is told here because the encoder would report a stray byte as INTERNAL, and a
// long text would use up the deadline on its way: both would fail open for whoever calls a gateway with them.
func (r *Request) fault() *Error {
	if fault := faultOf("api_key", r.APIKey); fault != nil {
		return fault
	}
	if fault := faultOf("key_id", r.KeyID); fault != nil {
		return fault
	}
	if fault := faultOf("resource", r.Resource); fault != nil {
		return fault
	}
	return faultOf("request_id", r.RequestID)
}

func faultOf(field, text string) *Error {
	what := ""
	switch {
	case len(text) > largestMessage:
		what = fmt.Sprintf("has %d bytes; a whole message has at most %d", len(text), largestMessage)
	case !utf8.ValidString(text):
		what = "is not valid UTF-8"
	default:
		return nil
	}
	return &Error{Code: codes.InvalidArgument, Message: field + ": " + what, Reason: "INVALID_FIELD", Field: field}
}

// newRequestID is 128 random bits. They need to be unique, not secret.
func newRequestID() string {
	id := strconv.AppendUint(make([]byte, 0, 26), rand.Uint64(), 36)
	return string(strconv.AppendUint(id, rand.Uint64(), 36))
}
