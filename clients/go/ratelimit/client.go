package ratelimit

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// reasonOverloaded is the reason of an UNAVAILABLE that is not sent again: a server with more calls than it can decide must
// not get each of them twice.
const reasonOverloaded = "OVERLOADED"

// maxAttempts is how often one call is sent at most. Only UNAVAILABLE is sent again, with the same request id.
const maxAttempts = 2

// Client is a client of the rate limit service. It is safe for concurrent use; create one and keep it.
type Client struct {
	target      string
	options     options
	connections *connections
	denials     *denialCache
	failures    failureCounter
	failureLog  failureLog
	// grants is nil unless the client decides by them.
	grants *grantBook
	// reported is what the metrics have of the grants.
	reported Grants
	// closed ends what reservations would still send.
	closed atomic.Bool
}

// NewClient creates a client of the service at target, a host and port such as ratelimit.internal:50051, or any other target
// that gRPC knows (https://grpc.io/docs/guides/custom-name-resolution/). It starts to connect but does not wait for that: see
// Client.Ready. It returns an error if no service can be called at the target or an option is out of bounds.
func NewClient(target string, opts ...ClientOption) (*Client, error) {
	o := defaults()
	for _, apply := range opts {
		apply(&o)
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	connections, err := connect(target, &o)
	if err != nil {
		return nil, fmt.Errorf("ratelimit: cannot create a client of %q: %w", target, err)
	}
	client := &Client{
		target:      target,
		options:     o,
		connections: connections,
		denials:     newDenialCache(o.denialCacheSize, o.denialCacheMaxAge, o.clock),
		failureLog:  failureLog{target: target, logger: o.logger, clock: o.clock},
	}
	if o.mode == ModeGranted {
		client.grants = newGrantBook(client)
	}
	return client, nil
}

// Check decides one call and charges its cost, or nothing if it is denied. It returns an *Error for what the caller or the
// configuration has to fix, and the context's error if that has ended the call; never one for a failure of the service.
func (c *Client) Check(ctx context.Context, request CheckRequest) (decision Decision, err error) {
	if request.Cost == 0 {
		request.Cost = 1
	}
	if c.grants != nil && request.RequestID == "" {
		if c.grants.spend(&request, &decision) {
			return decision, nil
		}
		return c.decideGranted(ctx, &request)
	}
	return c.decide(ctx, &request)
}

// Peek decides one call at a cost of 0: nothing is charged. Only the state of the key can deny it, and a limit with an
// overdraft that has less than one token left.
func (c *Client) Peek(ctx context.Context, request CheckRequest) (Decision, error) {
	request.Cost = 0
	return c.decide(ctx, &request)
}

// Charge charges a cost that was incurred already, whatever the limits have, when a call has ended; 0 charges nothing. Each
// limit takes what it has left, and then of its overdraft. Allowed is whether there is something left for the next call. When
// the service fails, the charge may be lost, or not: Failures counts that, and RequestID makes it safe to repeat.
func (c *Client) Charge(ctx context.Context, request CheckRequest) (Decision, error) {
	request.afterwards = true
	return c.decide(ctx, &request)
}

// Failures is how many calls failed open and closed, and how many reservations stayed unsettled, since the client was created.
func (c *Client) Failures() Failures {
	return c.failures.snapshot()
}

// Grants is what the client has decided and asked for in ModeGranted since it was created. Zero in another mode.
func (c *Client) Grants() Grants {
	if c.grants == nil {
		return Grants{}
	}
	return c.grants.grants()
}

// WaitUntilConnected waits for all connections, so that the first calls need not. It returns an error if ctx ends first. Whether
// the service answers, and what is wrong otherwise, is what Ready is for.
func (c *Client) WaitUntilConnected(ctx context.Context) error {
	if err := c.connections.wait(ctx); err != nil {
		return fmt.Errorf("ratelimit: no connection to the service: %w", err)
	}
	return nil
}

// Connection is for the generated stubs (batches, streams, administration): a connection that rotates through all of the
// client's. It sends no token, sets no deadline and retries nothing.
func (c *Client) Connection() grpc.ClientConnInterface {
	return c.connections
}

// Close closes the connections. Calls in flight and later ones return an *Error with FailedPrecondition: they never fail open.
// The holds of open reservations run out. In ModeGranted it first returns the units that were not spent, for the deadline of a call
// at most.
func (c *Client) Close() error {
	if !c.closed.Swap(true) && c.grants != nil {
		ctx, cancel := context.WithTimeout(context.Background(), c.options.deadline)
		defer cancel()
		c.grants.close(ctx)
		c.reportGrants()
	}
	return c.connections.close()
}

func (c *Client) decide(ctx context.Context, request *CheckRequest) (Decision, error) {
	began := time.Now()
	decision, err := c.decided(ctx, request)
	if err == nil {
		c.options.metrics.Decided(decision, time.Since(began))
	}
	return decision, err
}

// decideGranted decides a call by units, once there are some, or by a check of its own.
func (c *Client) decideGranted(ctx context.Context, request *CheckRequest) (Decision, error) {
	began := time.Now()
	if c.closed.Load() {
		return Decision{}, clientIsClosed()
	}
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	decision, how, err := c.grants.decide(ctx, request)
	switch {
	case how == alone:
		return c.decide(ctx, request)
	case how == atOnce:
		return decision, nil
	case err != nil:
		decision, err = c.failed(ctx, err)
	}
	if err == nil {
		c.options.metrics.Decided(decision, time.Since(began))
	}
	return decision, err
}

// reportGrants has the metrics get what has changed.
func (c *Client) reportGrants() {
	if c.options.metrics == (noMetrics{}) {
		return
	}
	if now := c.grants.grants(); now != c.reported {
		c.options.metrics.Granted(now.since(c.reported))
		c.reported = now
	}
}

func (c *Client) decided(ctx context.Context, request *CheckRequest) (Decision, error) {
	if invalid := request.validate(); invalid != nil {
		return Decision{}, invalid
	}
	if c.closed.Load() {
		return Decision{}, clientIsClosed()
	}
	// Only the service knows its first decision on a request id of the caller's own. A charge and a reservation have to get
	// there.
	cacheable := request.RequestID == "" && !request.afterwards && request.hold == nil
	if cacheable {
		if decision, found := c.denials.get(request); found {
			return decision, nil
		}
	}
	response, err := c.send(ctx, request.message())
	if err != nil {
		return c.failed(ctx, err)
	}
	decision := decisionOf(response)
	if cacheable {
		c.denials.put(request, decision)
	}
	return decision, nil
}

func (c *Client) send(
	parent context.Context, message *ratelimitv1.CheckLimitRequest,
) (*ratelimitv1.CheckLimitResponse, error) {
	connection, err := c.connections.pickFirst(parent)
	if err != nil {
		return nil, err
	}
	return call(parent, c, connection, checkLimit, message, maxAttempts)
}

// checkLimit sends a check. Sent again, the service does not take it for the first attempt.
func checkLimit(
	stub ratelimitv1.RateLimitServiceClient, ctx context.Context, message *ratelimitv1.CheckLimitRequest, options ...grpc.CallOption,
) (*ratelimitv1.CheckLimitResponse, error) {
	response, err := stub.CheckLimit(ctx, message, options...)
	if err != nil && message.Attempt > 0 {
		message.Attempt++
	}
	return response, err
}

// grant asks for units, and returns some. Sent again it is the same grant.
func (c *Client) grant(parent context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	connection, err := c.connections.pickUp(parent)
	if err != nil {
		return nil, err
	}
	return call(parent, c, connection, ratelimitv1.RateLimitServiceClient.Grant, request, maxAttempts)
}

// callOnce makes one call that is not sent again.
func callOnce[Request, Response any](
	parent context.Context, client *Client, method method[Request, Response], request *Request,
) (*Response, error) {
	connection, err := client.connections.pickFirst(parent)
	if err != nil {
		return nil, err
	}
	return call(parent, client, connection, method, request, 1)
}

type method[Request, Response any] func(
	ratelimitv1.RateLimitServiceClient, context.Context, *Request, ...grpc.CallOption,
) (*Response, error)

// call makes one call with the client's deadline and token, and sends it so often at most while the service is UNAVAILABLE, each time
// over another connection. Its error is an *Error, or that of the caller's context.
func call[Request, Response any](
	parent context.Context, client *Client, connection *connection, method method[Request, Response], request *Request, attempts int,
) (*Response, error) {
	ctx, cancel := client.outgoing(parent)
	defer cancel()
	for attempt := 1; ; attempt++ {
		response, err := method(connection.stub, ctx, request)
		if err == nil {
			return response, nil
		}
		failure := errorOf(err)
		if ended := endedBy(parent, ctx, failure); ended != nil {
			return nil, ended
		}
		if attempt == attempts || !failure.isWorthRepeating() || ctx.Err() != nil {
			return nil, failure
		}
		connection = client.connections.pick()
	}
}

// patience is how long a call waits for units: the deadline, which starts when there is a connection.
func (c *Client) patience() time.Duration {
	for _, connection := range c.connections.all {
		if connection.wasTried.Load() {
			return c.options.deadline
		}
	}
	return c.options.deadline + max(0, time.Until(c.connections.connectBy))
}

// outgoing is the context of a call, with the client's deadline and token.
func (c *Client) outgoing(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.authorized(parent), c.options.deadline)
}

// authorized is the context with the client's token, and without the metadata of the caller's own calls: its credentials are not
// for this service, and some values have gRPC fail the call with INTERNAL, by which a caller could have it fail open.
func (c *Client) authorized(ctx context.Context) context.Context {
	own := metadata.MD{}
	if c.options.token != "" {
		own.Set("authorization", "Bearer "+c.options.token)
	}
	return metadata.NewOutgoingContext(ctx, own)
}

// endedBy is the error of the caller's context if that has ended the call. A caller must not bypass the limit by a deadline too
// short for a response. The server, whose clock may be ahead, reports it with either status.
func endedBy(parent, ctx context.Context, failure *Error) error {
	if ended := parent.Err(); ended != nil {
		return ended
	}
	if (failure.Code == codes.DeadlineExceeded || failure.Code == codes.Canceled) && endsBefore(parent, ctx) {
		return context.DeadlineExceeded
	}
	return nil
}

// endsBefore is whether the deadline of the call is the caller's rather than the client's.
func endsBefore(parent, ctx context.Context) bool {
	callers, set := parent.Deadline()
	effective, _ := ctx.Deadline()
	return set && !callers.After(effective)
}

// unsettled counts and reports a reservation that could not be settled.
func (c *Client) unsettled(failure *Error) {
	c.report(failure, outcomeUnsettled)
}

// report counts a failure, and has it logged unless the caller gets it.
func (c *Client) report(failure *Error, outcome string) {
	c.failures.count(outcome)
	c.options.metrics.Failed(failure, outcome)
	if c.options.onFailure == nil {
		c.failureLog.failed(failure, outcome)
	} else {
		c.options.onFailure(failure)
	}
}

// failed decides by the options if the service failed, and otherwise returns the error.
func (c *Client) failed(ctx context.Context, err error) (Decision, error) {
	if ended := ctx.Err(); ended != nil {
		return Decision{}, ended
	}
	if c.closed.Load() {
		return Decision{}, clientIsClosed() // what Close has ended is no failure of the service
	}
	failure, isError := err.(*Error)
	if !isError || !failure.isFailure() {
		return Decision{}, err
	}
	decision := Decision{Reason: ReasonDegradedDenied, Source: SourceDegraded, Origin: OriginFallback, Failure: failure}
	outcome := outcomeClosed
	if c.options.failOpen {
		decision.Allowed, decision.Reason, outcome = true, ReasonDegradedAllowed, outcomeOpen
	}
	c.report(failure, outcome)
	return decision, nil
}
