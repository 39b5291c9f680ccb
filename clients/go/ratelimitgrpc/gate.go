package ratelimitgrpc

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// gate decides whether a call may go on.
type gate struct {
	checker Checker
	options options
}

type options struct {
	key      func(ctx context.Context, method string) string
	resource func(ctx context.Context, method string) string
	cost     func(ctx context.Context, method string) uint32
	style    ratelimit.Style
	onError  func(ctx context.Context, method string, err error) error
}

// Option changes how an interceptor works.
type Option func(*options)

// WithKey says where a call's API key is. The default is the metadata `x-api-key`. An empty key is refused.
func WithKey(key func(ctx context.Context, method string) string) Option {
	return func(o *options) { o.key = key }
}

// WithResource names what a call calls. The default is the full method: `/orders.v1.Orders/Create`.
func WithResource(resource func(ctx context.Context, method string) string) Option {
	return func(o *options) { o.resource = resource }
}

// WithCost says how many tokens a call takes: 1 to 1,000,000; zero means 1. The default is 1.
func WithCost(cost func(ctx context.Context, method string) uint32) Option {
	return func(o *options) { o.cost = cost }
}

// WithStyle sets the style of the headers. The default is ratelimit.IETF.
func WithStyle(style ratelimit.Style) Option {
	return func(o *options) { o.style = style }
}

// WithOnError makes the answer to a call that could not be checked because the setup is wrong: a token that is not
// good, a server without the service. The default logs the error by slog and answers INTERNAL.
func WithOnError(onError func(ctx context.Context, method string, err error) error) Option {
	return func(o *options) { o.onError = onError }
}

func newGate(checker Checker, opts []Option) *gate {
	o := options{
		key:      func(ctx context.Context, _ string) string { return metadataOf(ctx, "x-api-key") },
		resource: func(_ context.Context, method string) string { return method },
		cost:     func(context.Context, string) uint32 { return 1 },
		style:    ratelimit.IETF,
		onError:  internal,
	}
	for _, apply := range opts {
		apply(&o)
	}
	return &gate{checker: checker, options: o}
}

// check returns the metadata to send, and an error with a status when the call may not go on.
func (g *gate) check(ctx context.Context, method string) (metadata.MD, error) {
	key := g.options.key(ctx, method)
	if key == "" {
		return nil, ratelimit.MissingKey().GRPCStatus().Err()
	}
	decision, err := g.checker.Check(ctx, ratelimit.Request{
		APIKey:   key,
		Resource: g.options.resource(ctx, method),
		Cost:     g.options.cost(ctx, method),
	})
	if err != nil {
		if refusal, isTheirs := ratelimit.RefusalOf(err); isTheirs {
			return nil, refusal.GRPCStatus().Err()
		}
		return nil, g.options.onError(ctx, method, err)
	}
	headers := metadata.MD{}
	for _, header := range decision.Headers(g.options.style) {
		headers.Set(strings.ToLower(header.Name), header.Value)
	}
	if refusal, refused := decision.Refusal(); refused {
		return headers, refusal.GRPCStatus().Err()
	}
	return headers, nil
}

// internal keeps our own trouble with the service apart from what the caller did: a caller must not take a bad token
// of this server for one of its own.
func internal(ctx context.Context, method string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return status.FromContextError(ended).Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	slog.ErrorContext(ctx, "a call could not be checked", "method", method, "error", err)
	return status.Error(codes.Internal, "the rate limit could not be checked")
}
