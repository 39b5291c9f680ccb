package ratelimitgrpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

type options struct {
	key         func(ctx context.Context, method string) string
	resource    func(ctx context.Context, method string) string
	cost        func(ctx context.Context, method string) uint64
	skip        func(ctx context.Context, method string) bool
	headerStyle ratelimit.HeaderStyle
	onError     func(ctx context.Context, method string, err error) error
}

func defaults() options {
	return options{
		key:         xAPIKey,
		resource:    fullMethod,
		cost:        costOfOne,
		skip:        never,
		headerStyle: ratelimit.HeaderStyleIETF,
		onError:     internal,
	}
}

// Option configures an interceptor.
type Option func(*options)

// WithKey sets the function for a call's API key. A call with an empty one is refused. The default is the metadata
// `x-api-key`.
func WithKey(key func(ctx context.Context, method string) string) Option {
	return func(o *options) { o.key = key }
}

// WithResource sets the function for what a call calls. The default is the full method: `/orders.v1.Orders/Create`.
func WithResource(resource func(ctx context.Context, method string) string) Option {
	return func(o *options) { o.resource = resource }
}

// WithCost sets the function for how many tokens a call takes: 0 to 9,007,199,254, where 0 is a peek. The default is 1.
func WithCost(cost func(ctx context.Context, method string) uint64) Option {
	return func(o *options) { o.cost = cost }
}

// WithSkip sets the function for whether a call proceeds without a check, such as one of a health service. The default skips
// none.
func WithSkip(skip func(ctx context.Context, method string) bool) Option {
	return func(o *options) { o.skip = skip }
}

// WithHeaderStyle sets the style of the headers. The default is ratelimit.HeaderStyleIETF.
func WithHeaderStyle(style ratelimit.HeaderStyle) Option {
	return func(o *options) { o.headerStyle = style }
}

// WithOnError sets the error with which a call ends that could not be checked for a reason that is not the caller's, such
// as a wrong token of the client. The default logs the error with slog and returns INTERNAL.
func WithOnError(onError func(ctx context.Context, method string, err error) error) Option {
	return func(o *options) { o.onError = onError }
}

func xAPIKey(ctx context.Context, _ string) string {
	if values := metadata.ValueFromIncomingContext(ctx, "x-api-key"); len(values) > 0 {
		return values[0]
	}
	return ""
}

func fullMethod(_ context.Context, method string) string { return method }

func costOfOne(context.Context, string) uint64 { return 1 }

func never(context.Context, string) bool { return false }

// internal hides the error: a caller must not take a wrong token of this server for one of its own.
func internal(ctx context.Context, method string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return status.FromContextError(ended).Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	slog.ErrorContext(ctx, "a call was not checked", "method", method, "error", err)
	return status.Error(codes.Internal, "The rate limit could not be checked.")
}
