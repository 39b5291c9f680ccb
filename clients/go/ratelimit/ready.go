package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// readyPause is the time until a service that fails is called again.
const readyPause = 100 * time.Millisecond

// Ready returns once the service has answered over every connection, which charges nothing, or with what is wrong: at once for
// a wrong token, say, and when ctx ends for a service that cannot be reached or fails until then. What is wrong is an *Error,
// joined with the context's error if that ended the wait; it is only the context's if nothing was wrong until then. Use a
// context with a timeout of some seconds.
func (c *Client) Ready(ctx context.Context) error {
	// It charges nothing: it has no key. The service checks the token before it rejects that.
	request := &ratelimitv1.CheckLimitRequest{Cost: proto.Uint64(0), RequestId: newRequestID()}
	if c.grants != nil { // no id either, but what has one needs the role that grants do
		request.Credential = &ratelimitv1.CheckLimitRequest_KeyId{KeyId: "?"}
	}
	for _, connection := range c.connections.all {
		if err := c.awaitAnswer(ctx, connection, request); err != nil {
			return err
		}
		connection.endFirst()
	}
	return nil
}

func (c *Client) awaitAnswer(ctx context.Context, connection *connection, request *ratelimitv1.CheckLimitRequest) error {
	var last *Error
	for {
		if c.closed.Load() {
			return clientIsClosed()
		}
		_, err := connection.stub.CheckLimit(c.authorized(ctx), request)
		if err == nil {
			return nil
		}
		failure := errorOf(err)
		if failure.Code == codes.InvalidArgument {
			return nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		// That there was no answer to the last attempt is no cause if there is another.
		if last == nil || failure.Code != codes.DeadlineExceeded {
			last = failure
		}
		if !failure.isFailure() {
			return c.notReady(last)
		}
		select {
		case <-time.After(readyPause):
			if deadline, set := ctx.Deadline(); !set || time.Now().Before(deadline) {
				continue
			}
		case <-ctx.Done():
		}
		return fmt.Errorf("%w: %w", c.notReady(last), context.DeadlineExceeded)
	}
}

func (c *Client) notReady(failure *Error) *Error {
	message := fmt.Sprintf("%s is not ready: %s.", c.target, whatIsWrong(failure))
	if failure.Message != "" {
		message += fmt.Sprintf(" (%s)", failure.Message)
	}
	return &Error{Code: failure.Code, Message: message, Reason: failure.Reason, Field: failure.Field}
}

// noConnection is what is wrong by words in what gRPC reports, the first that matches.
var noConnection = []struct {
	words *regexp.Regexp
	wrong string
}{
	{regexp.MustCompile(`(?i)refused`), "the connection is refused. Check the port, and that the service runs there"},
	{
		regexp.MustCompile(`(?i)lookup|resol|no such host|no children to pick from`),
		"its name cannot be resolved. Check its spelling, and the DNS of this machine",
	},
	{
		regexp.MustCompile(`(?i)handshake|SSL|TLS|certificate`),
		"the TLS handshake failed. Check the option tls: that both sides use TLS, and that the client trusts the certificate",
	},
	{regexp.MustCompile(`(?i)clos|reset|EOF|preface`), "it closes the connection. If it has TLS, set the option tls"},
}

func whatIsWrong(failure *Error) string {
	switch {
	case failure.Code == codes.Unavailable && failure.Reason == "":
		for _, cause := range noConnection {
			if cause.words.MatchString(failure.Message) {
				return cause.wrong
			}
		}
		return "it cannot be reached. Check the target and the network"
	case failure.Code == codes.DeadlineExceeded:
		return "no answer. Check that the service runs there, that no firewall is in the way, and that both sides use TLS or neither"
	case failure.isFailure():
		return "the service fails. See its log"
	case failure.Code == codes.Unauthenticated:
		return "the service rejects the token. Check the option token"
	case failure.Code == codes.PermissionDenied:
		return "the token may not check limits. Use one of role gateway"
	case failure.Code == codes.Unimplemented:
		return "what answers there is not the rate limit service. Check the target"
	}
	return "it answers with an error"
}
