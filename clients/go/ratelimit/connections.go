package ratelimit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// roundRobin spreads a connection's calls over all addresses that the target resolves to. Retries are the client's own
// work, so that they go over another connection and are bounded by one deadline.
const roundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// A server that has vanished without a word would otherwise be waited for until TCP gives up, many minutes later. Pings go
// out only while there are calls and nothing has been read for 10 seconds.
var aliveness = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}

// connections spreads calls over several connections in turn. It is itself a connection for any stub.
type connections struct {
	all  []*grpc.ClientConn
	next atomic.Uint64
}

func connect(target string, o *options) (*connections, error) {
	dialOptions := append([]grpc.DialOption{
		grpc.WithTransportCredentials(o.transportSecurity),
		grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithKeepaliveParams(aliveness),
	}, o.dialOptions...)
	pool := &connections{}
	for range o.connections {
		connection, err := grpc.NewClient(target, dialOptions...)
		if err != nil {
			return nil, errors.Join(err, pool.close())
		}
		// At once rather than with the first call, whose deadline may be shorter than a handshake.
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

func (c *connections) close() error {
	var errs []error
	for _, connection := range c.all {
		errs = append(errs, connection.Close())
	}
	return errors.Join(errs...)
}
