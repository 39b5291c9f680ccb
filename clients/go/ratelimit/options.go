package ratelimit

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

type options struct {
	deadline          time.Duration
	failOpen          bool
	connectTimeout    time.Duration
	onFailure         func(*Error)
	logger            func() *slog.Logger
	metrics           ClientMetrics
	connections       int
	denialCacheSize   int
	denialCacheMaxAge time.Duration
	token             string
	tls               *tls.Config
	mode              Mode
	nearLimit         NearLimit
	clock             func() time.Time
	// monotonic is the time since the client was created, by the clock. Nil is that of the machine, which costs half as much to
	// read without the date.
	monotonic func() time.Duration
}

func defaults() options {
	return options{
		deadline:          50 * time.Millisecond,
		failOpen:          true,
		connectTimeout:    1 * time.Second,
		connections:       4,
		denialCacheSize:   10_000,
		denialCacheMaxAge: 60 * time.Second,
		logger:            slog.Default,
		metrics:           noMetrics{},
		mode:              ModeChecked,
		nearLimit:         NearLimitExact,
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

// WithConnectTimeout sets how long calls wait for a connection that was never up, from NewClient on; only then does their
// deadline start. 0 or more, where 0 does not wait; the default is 1 second. A refused connection does not wait either.
func WithConnectTimeout(timeout time.Duration) ClientOption {
	return func(o *options) { o.connectTimeout = timeout }
}

// WithOnFailure sets a function that is called once for each call that failed open or closed and each reservation that stayed
// unsettled, in the goroutine of the call. Keep it fast. Nil, the default, logs a warning, at most one a minute.
func WithOnFailure(onFailure func(*Error)) ClientOption {
	return func(o *options) { o.onFailure = onFailure }
}

// WithLogger sets where these warnings go. The default is slog.Default() at the time of the warning.
func WithLogger(logger *slog.Logger) ClientOption {
	return func(o *options) { o.logger = func() *slog.Logger { return logger } }
}

// WithMetrics sets what gets every decision and every failure, such as that of package ratelimitotel. The default is none.
func WithMetrics(metrics ClientMetrics) ClientOption {
	return func(o *options) { o.metrics = metrics }
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

// WithToken sends `authorization: Bearer <token>` with every call. Printable ASCII without blanks; empty, the default, sends none.
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

// WithMode sets who decides calls of Client.Check: the service (ModeChecked, the default), or the client by units that it has been
// granted (ModeGranted). All else stays as it is.
func WithMode(mode Mode) ClientOption {
	return func(o *options) { o.mode = mode }
}

// WithNearLimit sets when a client in ModeGranted asks again once a limit has less left than was wanted: as soon as a call would
// fit (NearLimitExact, the default), or paced.
func WithNearLimit(nearLimit NearLimit) ClientOption {
	return func(o *options) { o.nearLimit = nearLimit }
}

// WithClock sets the clock by which cached denials and units expire, and a minute passes between warnings. It must not be set back
// if units are granted. The default is time.Now. Deadlines run in real time.
func WithClock(clock func() time.Time) ClientOption {
	return func(o *options) { o.clock = clock; o.monotonic = since(clock) }
}

// since is the time that has passed on a clock.
func since(clock func() time.Time) func() time.Duration {
	began := clock()
	return func() time.Duration { return clock().Sub(began) }
}

func (o *options) validate() error {
	switch {
	case o.deadline <= 0:
		return fmt.Errorf("ratelimit: deadline is %v; it must be more than 0", o.deadline)
	case o.connectTimeout < 0:
		return fmt.Errorf("ratelimit: connectTimeout is %v; it must be at least 0", o.connectTimeout)
	case o.metrics == nil:
		return errors.New("ratelimit: metrics is nil; leave out WithMetrics for none")
	case o.connections < 1:
		return fmt.Errorf("ratelimit: connections is %d; it must be at least 1", o.connections)
	case o.denialCacheSize < 0:
		return fmt.Errorf("ratelimit: denialCacheSize is %d; it must be at least 0", o.denialCacheSize)
	case o.mode != ModeChecked && o.mode != ModeGranted:
		return fmt.Errorf("ratelimit: mode is %q; it must be %q or %q", o.mode, ModeChecked, ModeGranted)
	case o.nearLimit != NearLimitExact && o.nearLimit != NearLimitPaced:
		return fmt.Errorf("ratelimit: nearLimit is %q; it must be %q or %q", o.nearLimit, NearLimitExact, NearLimitPaced)
	case o.denialCacheMaxAge <= 0:
		return fmt.Errorf("ratelimit: denialCacheMaxAge is %v; it must be more than 0", o.denialCacheMaxAge)
	}
	if i := strings.IndexFunc(o.token, isForeignToTokens); i >= 0 {
		// Without its value, which is a secret.
		return fmt.Errorf("ratelimit: token has %s in it; it must be printable ASCII without blanks", named(o.token[i]))
	}
	return nil
}

func isForeignToTokens(r rune) bool { return r < '!' || r > '~' }

// named is what the first byte of a character is called that a token must not have.
func named(first byte) string {
	switch {
	case first == '\r' || first == '\n':
		return "a line break"
	case first == ' ' || first == '\t':
		return "a blank"
	case first > unicode.MaxASCII:
		return "a character beyond ASCII"
	}
	return "a control character"
}
