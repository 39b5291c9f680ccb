// Package ratelimitgrpc lets a gRPC server ask a ratelimit-service before each call.
//
//	client, err := ratelimit.New("localhost:50051")
//	server := grpc.NewServer(
//		grpc.UnaryInterceptor(ratelimitgrpc.UnaryServerInterceptor(client)),
//		grpc.StreamInterceptor(ratelimitgrpc.StreamServerInterceptor(client)))
package ratelimitgrpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// Checker decides calls. *ratelimit.Client is one.
type Checker interface {
	Check(ctx context.Context, request ratelimit.Request) (ratelimit.Decision, error)
}

// UnaryServerInterceptor asks the checker before each unary call. A call that is allowed goes on to the handler; any
// other ends with the status of ratelimit.Refusal. The headers go into the initial metadata either way.
func UnaryServerInterceptor(checker Checker, opts ...Option) grpc.UnaryServerInterceptor {
	gate := newGate(checker, opts)
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		headers, err := gate.check(ctx, info.FullMethod)
		if headers != nil {
			if failed := grpc.SetHeader(ctx, headers); failed != nil {
				return nil, failed
			}
		}
		if err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}
}

// StreamServerInterceptor asks the checker once for each stream, at its start, and then does as UnaryServerInterceptor.
func StreamServerInterceptor(checker Checker, opts ...Option) grpc.StreamServerInterceptor {
	gate := newGate(checker, opts)
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		headers, err := gate.check(stream.Context(), info.FullMethod)
		if headers != nil {
			if failed := stream.SetHeader(headers); failed != nil {
				return failed
			}
		}
		if err != nil {
			return err
		}
		return handler(server, stream)
	}
}

// metadataOf is the value of an entry of the call's metadata. Empty when there is none.
func metadataOf(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}
