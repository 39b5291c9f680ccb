package ratelimit

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// attempts is how often one call is sent at most. Only UNAVAILABLE is sent again, with the same request id.
const attempts = 2

// Client asks a ratelimit-service. It is safe for use by many goroutines; make one and keep it.
type Client struct {
	options     options
	connections *connections
	stub        ratelimitv1.RateLimitServiceClient
	denials     *denials
	open        atomic.Uint64
	closed      atomic.Uint64
}

// Failures counts the calls that the service could not be asked about, since the client was made.
type Failures struct {
	// Open is how many were allowed.
	Open uint64
	// Closed is how many were denied.
	Closed uint64
}

// New makes a client of the service at target, a host and port or any other target that gRPC knows
// (https://grpc.io/docs/guides/custom-name-resolution/). It does not wait for a connection. It returns an error if the
// target cannot be parsed or an option is out of bounds.
func New(target string, opts ...Option) (*Client, error) {
	o := defaults()
	for _, apply := range opts {
		apply(&o)
	}
	switch {
	case o.deadline <= 0:
		return nil, fmt.Errorf("ratelimit: the deadline is %v; it must be more than 0", o.deadline)
	case o.connections < 1:
		return nil, fmt.Errorf("ratelimit: connections is %d; it must be at least 1", o.connections)
	case o.denialCacheSize < 0:
		return nil, fmt.Errorf("ratelimit: the denial cache is of %d; it must be 0 or more", o.denialCacheSize)
	}
	connections, err := connect(target, &o)
	if err != nil {
		return nil, fmt.Errorf("ratelimit: no client of %q can be made: %w", target, err)
	}
	return &Client{
		options:     o,
		connections: connections,
		stub:        ratelimitv1.NewRateLimitServiceClient(connections),
		denials:     newDenials(o.denialCacheSize, o.longestDenial, o.now),
	}, nil
}

// Check decides one call and takes its cost. It returns an *Error for what the caller or the setup is to blame for,
// and the context's error when that has ended the call; never one for a fault of the service.
func (c *Client) Check(ctx context.Context, request Request) (Decision, error) {
	if request.Cost == 0 {
		request.Cost = 1
	}
	return c.decide(ctx, &request, request.Cost)
}

// Look decides one call without taking anything: what remains is told, and only the key's state denies.
func (c *Client) Look(ctx context.Context, request Request) (Decision, error) {
	return c.decide(ctx, &request, 0)
}

// Failures is how many calls the service could not be asked about.
func (c *Client) Failures() Failures {
	return Failures{Open: c.open.Load(), Closed: c.closed.Load()}
}

// Connection is for the generated stubs (batches, streams, administration): a connection that spreads calls over all
// of the client's. It sends no token, sets no deadline and retries nothing.
func (c *Client) Connection() grpc.ClientConnInterface {
	return c.connections
}

// Close ends the connections, and with them the calls in flight.
func (c *Client) Close() error {
	return c.connections.close()
}

func (c *Client) decide(ctx context.Context, request *Request, cost uint32) (Decision, error) {
	if fault := request.fault(); fault != nil {
		return Decision{}, fault
	}
	// Only the service knows what it first answered to a request id of the caller's own.
	cacheable := request.RequestID == ""
	if cacheable {
		if decision, found := c.denials.recall(request, cost); found {
			return decision, nil
		}
	}
	answer, err := c.ask(ctx, request.message(cost))
	if err != nil {
		return c.withoutAnswer(ctx, err)
	}
	decision := decisionOf(answer)
	if cacheable {
		c.denials.remember(request, cost, decision)
	}
	return decision, nil
}

func (c *Client) ask(
	parent context.Context, message *ratelimitv1.CheckLimitRequest,
) (answer *ratelimitv1.CheckLimitResponse, err error) {
	ctx, cancel := context.WithTimeout(parent, c.options.deadline)
	defer cancel()
	if c.options.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.options.token)
	}
	for range attempts {
		answer, err = c.stub.CheckLimit(ctx, message)
		if err == nil {
			return answer, nil
		}
		told := errorOf(err)
		if (told.Code == codes.DeadlineExceeded || told.Code == codes.Canceled) && endsBefore(parent, ctx) {
			// Whoever sets a deadline too short for an answer must not get past the limit by it. The server, whose
			// clock may be ahead, tells it by either status.
			return nil, context.DeadlineExceeded
		}
		err = told
		if told.Code != codes.Unavailable || ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// endsBefore says whether the call's deadline is the caller's rather than ours.
func endsBefore(parent, ours context.Context) bool {
	theirs, set := parent.Deadline()
	bound, _ := ours.Deadline()
	return set && !theirs.After(bound)
}

// withoutAnswer decides by the options if the service is at fault, and otherwise hands the error on.
func (c *Client) withoutAnswer(ctx context.Context, err error) (Decision, error) {
	if ended := ctx.Err(); ended != nil {
		return Decision{}, ended
	}
	told, isError := err.(*Error)
	if !isError || !isFault(told.Code) {
		return Decision{}, err
	}
	decision := Decision{Source: SourceDegraded, Origin: FromFallback, Failure: told}
	if c.options.failOpen {
		decision.Allowed, decision.Reason = true, DegradedAllowed
		c.open.Add(1)
	} else {
		decision.Reason = DegradedDenied
		c.closed.Add(1)
	}
	c.options.onFailure(decision)
	return decision, nil
}
