package ratelimit

import (
	"crypto/tls"
	"fmt"
	"time"
)

type options struct {
	deadline          time.Duration
	failOpen          bool
	onFailure         func(*Error)
	connections       int
	denialCacheSize   int
	denialCacheMaxAge time.Duration
	token             string
	tls               *tls.Config
	clock             func() time.Time
}

func defaults() options {
	return options{
		deadline:          50 * time.Millisecond,
		failOpen:          true,
		onFailure:         func(*Error) {},
		connections:       4,
		denialCacheSize:   10_000,
		denialCacheMaxAge: 60 * time.Second,
		clock:             time.Now,
	}
}

// ClientOption configures a Client.
type ClientOption func(*options)

// WithDeadline sets the time for a whole call, including its retry. More than 0; the default is 50 ms.
func WithDeadline(deadline time.Duration) ClientOption {
	return func(o *options) { o.deadline = deadline }
}

// WithFailOpen sets whether a call is allowed (true, the default) or denied when the service fails.
func WithFailOpen(failOpen bool) ClientOption {
	return func(o *options) { o.failOpen = failOpen }
}

// WithOnFailure sets a function that is called once for each call that failed open or closed and each reservation that stayed
// unsettled, in the goroutine of the call. Keep it fast. The default does nothing.
func WithOnFailure(onFailure func(*Error)) ClientOption {
	return func(o *options) { o.onFailure = onFailure }
}

// WithConnections sets how many connections calls rotate through. At least 1; the default is 4. A server with several
// workers behind one port, and most load balancers, distribute connections, not calls.
func WithConnections(connections int) ClientOption {
	return func(o *options) { o.connections = connections }
}

// WithDenialCacheSize sets how many denials are cached. 0 or more, where 0 disables the cache; the default is 10,000.
func WithDenialCacheSize(size int) ClientOption {
	return func(o *options) { o.denialCacheSize = size }
}

// WithDenialCacheMaxAge sets the age at which a cached denial is checked again, so that a raised limit takes effect. More
// than 0; the default is 60 seconds.
func WithDenialCacheMaxAge(maxAge time.Duration) ClientOption {
	return func(o *options) { o.denialCacheMaxAge = maxAge }
}

// WithToken sends `authorization: Bearer <token>` with every call. The default sends no token.
func WithToken(token string) ClientOption {
	return func(o *options) { o.token = token }
}

// WithTLS encrypts the connections. A nil config trusts the system's CAs. The default is plaintext.
func WithTLS(config *tls.Config) ClientOption {
	if config == nil {
		config = &tls.Config{}
	}
	return func(o *options) { o.tls = config }
}

// WithClock sets the clock by which cached denials expire. The default is time.Now. Deadlines run in real time.
func WithClock(clock func() time.Time) ClientOption {
	return func(o *options) { o.clock = clock }
}

func (o *options) validate() error {
	switch {
	case o.deadline <= 0:
		return fmt.Errorf("ratelimit: deadline is %v; it must be more than 0", o.deadline)
	case o.connections < 1:
		return fmt.Errorf("ratelimit: connections is %d; it must be at least 1", o.connections)
	case o.denialCacheSize < 0:
		return fmt.Errorf("ratelimit: denialCacheSize is %d; it must be at least 0", o.denialCacheSize)
	case o.denialCacheMaxAge <= 0:
		return fmt.Errorf("ratelimit: denialCacheMaxAge is %v; it must be more than 0", o.denialCacheMaxAge)
	}
	return nil
}
