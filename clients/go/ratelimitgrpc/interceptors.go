// Package ratelimitgrpc has interceptors for gRPC servers that check each call.
//
//	client, err := ratelimit.NewClient("localhost:50051")
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

// UnaryServerInterceptor checks each unary call with the client. An allowed call proceeds to the handler; any other ends
// with the status of a ratelimit.Refusal. The headers are in the initial metadata either way.
func UnaryServerInterceptor(client *ratelimit.Client, opts ...Option) grpc.UnaryServerInterceptor {
	checker := newChecker(client, opts)
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		headers, err := checker.check(ctx, info.FullMethod)
		if headers.Len() > 0 {
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

// StreamServerInterceptor checks each stream once, at its start. The rest is as in UnaryServerInterceptor.
func StreamServerInterceptor(client *ratelimit.Client, opts ...Option) grpc.StreamServerInterceptor {
	checker := newChecker(client, opts)
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		headers, err := checker.check(stream.Context(), info.FullMethod)
		if headers.Len() > 0 {
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

type checker struct {
	client  *ratelimit.Client
	options options
}

func newChecker(client *ratelimit.Client, opts []Option) *checker {
	o := defaults()
	for _, apply := range opts {
		apply(&o)
	}
	return &checker{client: client, options: o}
}

// check returns the initial metadata, and an error with a status when the call may not proceed.
func (c *checker) check(ctx context.Context, method string) (metadata.MD, error) {
	if c.options.skip(ctx, method) {
		return nil, nil
	}
	key := c.options.key(ctx, method)
	if key == "" {
		return c.refuse(ratelimit.RefusalForMissingKey())
	}
	decision, err := c.decide(ctx, method, key)
	if err != nil {
		if refusal, isCallers := ratelimit.RefusalForError(err); isCallers {
			return c.refuse(refusal)
		}
		return nil, c.options.onError(ctx, method, err)
	}
	if refusal, refused := ratelimit.RefusalForDecision(decision); refused {
		return c.refuse(refusal)
	}
	return metadata.New(ratelimit.LimitHeaders(decision, c.options.headerStyle)), nil
}

func (c *checker) decide(ctx context.Context, method, key string) (ratelimit.Decision, error) {
	request := ratelimit.CheckRequest{
		APIKey: key, Resource: c.options.resource(ctx, method), Cost: c.options.cost(ctx, method),
	}
	if request.Cost == 0 {
		return c.client.Peek(ctx, request)
	}
	return c.client.Check(ctx, request)
}

func (c *checker) refuse(refusal ratelimit.Refusal) (metadata.MD, error) {
	return metadata.New(refusal.Headers(c.options.headerStyle)), refusal.GRPCStatus().Err()
}
