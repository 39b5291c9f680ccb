package ratelimit

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// maxMessageBytes is the size of message above which the service rejects it. A text above it would only use up the
// deadline on its way.
const maxMessageBytes = 64 * 1024

// CheckRequest is one call to decide.
type CheckRequest struct {
	// APIKey is the secret API key as the caller presented it. Exactly one of APIKey and KeyID is needed.
	APIKey string
	// KeyID is a key's public id, for a gateway that has verified the key itself. Needs a token of role gateway.
	KeyID string
	// Resource is what is being called: at most 256 bytes, no control characters. Empty matches only limits for "*".
	Resource string
	// Cost is in tokens: 1 to 9,007,199,254. Zero means 1, but in Client.Charge; see Client.Peek for a cost of 0.
	Cost uint64
	// RequestID makes the call idempotent: at most 128 bytes. Repeated within the service's window, it is charged once and
	// gets the first decision, which is never cached. If empty, the client generates one for its own retry.
	RequestID string

	// afterwards is whether the cost was incurred already.
	afterwards bool
	// hold makes the call a reservation. Nil means none.
	hold *durationpb.Duration
}

// message is the request as it is sent, always with a request id.
func (r *CheckRequest) message() *ratelimitv1.CheckLimitRequest {
	message := &ratelimitv1.CheckLimitRequest{Resource: r.Resource, RequestId: r.RequestID, Hold: r.hold}
	if r.Cost != 1 {
		message.Cost = proto.Uint64(r.Cost)
	}
	if r.afterwards {
		message.Charge = ratelimitv1.CheckLimitRequest_ALWAYS
	}
	if r.KeyID != "" {
		message.Credential = &ratelimitv1.CheckLimitRequest_KeyId{KeyId: r.KeyID}
	} else {
		message.Credential = &ratelimitv1.CheckLimitRequest_ApiKey{ApiKey: r.APIKey}
	}
	if message.RequestId == "" {
		message.RequestId = newRequestID()
		message.Attempt = 1 // of an id of the caller's nobody knows
	}
	return message
}

// validate is the error for what cannot be sent. The encoder would report invalid UTF-8 as INTERNAL, and an oversized text
// would use up the deadline: both would fail open for the callers of a gateway.
func (r *CheckRequest) validate() *Error {
	for _, text := range [...]struct{ field, value string }{
		{"api_key", r.APIKey}, {"key_id", r.KeyID}, {"resource", r.Resource}, {"request_id", r.RequestID},
	} {
		if size := len(text.value); size > maxMessageBytes {
			return invalidField(text.field, fmt.Sprintf("has %d bytes; a whole message has at most %d", size, maxMessageBytes))
		}
		if !utf8.ValidString(text.value) {
			return invalidField(text.field, "is not valid UTF-8")
		}
	}
	return nil
}

// newRequestID is 128 random bits. They need to be unique, not secret.
func newRequestID() string {
	id := strconv.AppendUint(make([]byte, 0, 26), rand.Uint64(), 36)
	return string(strconv.AppendUint(id, rand.Uint64(), 36))
}
