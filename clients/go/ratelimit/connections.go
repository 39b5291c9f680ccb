package ratelimit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// roundRobin balances the calls of a connection over all addresses that the target resolves to. The client retries by
// itself, over another connection and within the call's deadline.
const roundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// keepaliveParams detects a server that has vanished without closing its connections; TCP alone takes many minutes. Pings
// are sent only while there are calls and nothing has been received for 10 seconds.
var keepaliveParams = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}

// connection is one of several, with the stub that uses it.
type connection struct {
	*grpc.ClientConn
	stub ratelimitv1.RateLimitServiceClient
	// wasTried is whether it was up, could not be connected, or has taken too long: calls wait no more for it.
	wasTried atomic.Bool
}

// connections rotates calls through several connections. It is itself a connection for any stub.
type connections struct {
	all  []*connection
	next atomic.Uint64
	// connectBy is when calls cease to wait for a connection that was never up.
	connectBy time.Time
}

func connect(target string, o *options) (*connections, error) {
	transport := insecure.NewCredentials()
	if o.tls != nil {
		transport = credentials.NewTLS(o.tls)
	}
	pool := &connections{connectBy: time.Now().Add(o.connectTimeout)}
	for range o.connections {
		conn, err := grpc.NewClient(target,
			grpc.WithTransportCredentials(transport),
			grpc.WithDefaultServiceConfig(roundRobin),
			grpc.WithKeepaliveParams(keepaliveParams),
			// Never: after a quiet night, too, the deadline of a call may be shorter than a handshake.
			grpc.WithIdleTimeout(0))
		if err != nil {
			return nil, errors.Join(err, pool.close())
		}
		conn.Connect()
		pool.all = append(pool.all, &connection{ClientConn: conn, stub: ratelimitv1.NewRateLimitServiceClient(conn)})
	}
	return pool, nil
}

func (c *connections) pick() *connection {
	return c.all[(c.next.Add(1)-1)%uint64(len(c.all))]
}

// pickFirst is the next connection, once it was up for the first time, could not be connected, or has taken too long. It
// returns the context's error if that ends before.
func (c *connections) pickFirst(ctx context.Context) (*connection, error) {
	next := c.pick()
	if next.wasTried.Load() {
		return next, nil
	}
	connecting, cancel := context.WithDeadline(ctx, c.connectBy)
	defer cancel()
	for state := next.GetState(); state == connectivity.Idle || state == connectivity.Connecting; state = next.GetState() {
		if !next.WaitForStateChange(connecting, state) {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	next.endFirst()
	return next, nil
}

// pickUp is the next connection that calls do not wait for, or pickFirst if there is none.
func (c *connections) pickUp(ctx context.Context) (*connection, error) {
	for range c.all {
		if next := c.pick(); next.wasTried.Load() {
			return next, nil
		}
	}
	return c.pickFirst(ctx)
}

// endFirst has no call wait for the connection any more.
func (c *connection) endFirst() { c.wasTried.Store(true) }

// Invoke makes a unary call over the next connection.
func (c *connections) Invoke(ctx context.Context, method string, args, reply any, callOptions ...grpc.CallOption) error {
	return c.pick().Invoke(ctx, method, args, reply, callOptions...)
}

// NewStream opens a stream over the next connection.
func (c *connections) NewStream(
	ctx context.Context, description *grpc.StreamDesc, method string, callOptions ...grpc.CallOption,
) (grpc.ClientStream, error) {
	return c.pick().NewStream(ctx, description, method, callOptions...)
}

// wait returns once all connections are ready, or the context's error.
func (c *connections) wait(ctx context.Context) error {
	for _, connection := range c.all {
		for state := connection.GetState(); state != connectivity.Ready; state = connection.GetState() {
			if state == connectivity.Shutdown {
				return errors.New("the client is closed")
			}
			connection.Connect()
			if !connection.WaitForStateChange(ctx, state) {
				return ctx.Err()
			}
		}
		connection.endFirst()
	}
	return nil
}

func (c *connections) close() error {
	var errs []error
	for _, connection := range c.all {
		errs = append(errs, connection.Close())
	}
	return errors.Join(errs...)
}
