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
)

// roundRobin balances the calls of a connection over all addresses that the target resolves to. The client retries by
// itself, over another connection and within the call's deadline.
const roundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// keepaliveParams detects a server that has vanished without closing its connections; TCP alone takes many minutes. Pings
// are sent only while there are calls and nothing has been received for 10 seconds.
var keepaliveParams = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}

// connections rotates calls through several connections. It is itself a connection for any stub.
type connections struct {
	all  []*grpc.ClientConn
	next atomic.Uint64
}

func connect(target string, o *options) (*connections, error) {
	transport := insecure.NewCredentials()
	if o.tls != nil {
		transport = credentials.NewTLS(o.tls)
	}
	pool := &connections{}
	for range o.connections {
		connection, err := grpc.NewClient(target,
			grpc.WithTransportCredentials(transport),
			grpc.WithDefaultServiceConfig(roundRobin),
			grpc.WithKeepaliveParams(keepaliveParams))
		if err != nil {
			return nil, errors.Join(err, pool.close())
		}
		// Now rather than with the first call, whose deadline may be shorter than a handshake.
		connection.Connect()
		pool.all = append(pool.all, connection)
	}
	return pool, nil
}

func (c *connections) pick() *grpc.ClientConn {
	return c.all[(c.next.Add(1)-1)%uint64(len(c.all))]
}

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
