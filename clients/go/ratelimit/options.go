package ratelimit

import (
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

type options struct {
	deadline          time.Duration
	failOpen          bool
	onFailure         func(Decision)
	connections       int
	denialCacheSize   int
	longestDenial     time.Duration
	token             string
	transportSecurity credentials.TransportCredentials
	dialOptions       []grpc.DialOption
	now               func() time.Time
}

func defaults() options {
	return options{
		deadline:          50 * time.Millisecond,
		failOpen:          true,
		onFailure:         func(Decision) {},
		connections:       4,
		denialCacheSize:   10_000,
		longestDenial:     time.Minute,
		transportSecurity: insecure.NewCredentials(),
		now:               time.Now,
	}
}

// Option changes how a Client works.
type Option func(*options)

// WithDeadline sets the time for a whole call, its retry included. The default is 50 ms.
func WithDeadline(deadline time.Duration) Option {
	return func(o *options) { o.deadline = deadline }
}

// WithFailOpen says what a call gets when the service cannot be asked: allowed (true, the default) or denied.
func WithFailOpen(open bool) Option {
	return func(o *options) { o.failOpen = open }
}

// WithOnFailure sets a function that is called once for each call whose decision the client made by itself;
// Decision.Failure says why. It is called by the goroutine of the call, which waits for it.
func WithOnFailure(onFailure func(Decision)) Option {
	return func(o *options) { o.onFailure = onFailure }
}

// WithConnections sets how many connections the calls are spread over in turn: at least 1. The default is 4. A server
// with several workers behind one port, and most load balancers, spread connections, not calls.
func WithConnections(connections int) Option {
	return func(o *options) { o.connections = connections }
}

// WithDenialCache sets how many denials are remembered, and for how long at most. Zero denials remembers none. The
// defaults are 10,000 and a minute. A denial is forgotten when its RetryAfter has passed, or after longest if that is
// sooner, so that a raised limit is noticed.
func WithDenialCache(denials int, longest time.Duration) Option {
	return func(o *options) { o.denialCacheSize, o.longestDenial = denials, longest }
}

// WithToken sends `authorization: Bearer <token>` with each call.
func WithToken(token string) Option {
	return func(o *options) { o.token = token }
}

// WithTLS encrypts the connections. A nil config takes the system's certificate authorities. Without this option,
// connections are in clear text.
func WithTLS(config *tls.Config) Option {
	return func(o *options) { o.transportSecurity = credentials.NewTLS(config) }
}

// WithDialOptions adds options of the gRPC connections, such as a stats handler. They go before the client's own.
func WithDialOptions(dialOptions ...grpc.DialOption) Option {
	return func(o *options) { o.dialOptions = append(o.dialOptions, dialOptions...) }
}

// WithClock sets the clock by which remembered denials end. The default is time.Now. Deadlines run in real time.
func WithClock(now func() time.Time) Option {
	return func(o *options) { o.now = now }
}
