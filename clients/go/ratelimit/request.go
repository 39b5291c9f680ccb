package ratelimit

import (
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

// fault is what cannot be sent at all. It is told here because the encoder would report it as INTERNAL, and that
// would fail open for whoever puts a stray byte into a path.
func (r *Request) fault() *Error {
	switch {
	case !utf8.ValidString(r.APIKey):
		return notText("api_key")
	case !utf8.ValidString(r.KeyID):
		return notText("key_id")
	case !utf8.ValidString(r.Resource):
		return notText("resource")
	case !utf8.ValidString(r.RequestID):
		return notText("request_id")
	}
	return nil
}

func notText(field string) *Error {
	return &Error{
		Code:    codes.InvalidArgument,
		Message: field + ": is not valid UTF-8",
		Reason:  "INVALID_FIELD",
		Field:   field,
	}
}

// newRequestID is 128 random bits. They need to be unique, not secret.
func newRequestID() string {
	id := strconv.AppendUint(make([]byte, 0, 26), rand.Uint64(), 36)
	return string(strconv.AppendUint(id, rand.Uint64(), 36))
}
