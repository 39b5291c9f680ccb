package scripted

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
)

// connectionCount counts the connections that clients have made so far.
type connectionCount struct{ atomic.Int64 }

// HandleConn counts.
func (c *connectionCount) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, began := event.(*stats.ConnBegin); began {
		c.Add(1)
	}
}

// TagConn adds nothing.
func (c *connectionCount) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return ctx
}

// HandleRPC counts nothing.
func (c *connectionCount) HandleRPC(context.Context, stats.RPCStats) {}

// TagRPC adds nothing.
func (c *connectionCount) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return ctx
}

// peerOf is the other end of the call's connection.
func peerOf(ctx context.Context) string {
	if other, known := peer.FromContext(ctx); known {
		return other.Addr.String()
	}
	return ""
}
