package ratelimit_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
)

// listening is an address where connections are never accepted, until it is closed.
func listening(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// The error of a service that cannot be reached has the cause, and is that of the context, too.
func TestWhatIsWrong(t *testing.T) {
	closed := listening(t)
	_ = closed.Close()
	certified := httptest.NewTLSServer(nil)
	t.Cleanup(certified.Close)
	secured, err := scripted.Start(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: certified.TLS.Certificates})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secured.Stop)
	plain, _ := start(t)
	encrypted := ratelimit.WithTLS(nil)
	const handshake = "the TLS handshake failed. " +
		"Check the option tls: that both sides use TLS, and that the client trusts the certificate"
	for name, one := range map[string]struct {
		target, wrong string
		code          codes.Code
		options       []ratelimit.ClientOption
	}{
		"refused": {
			closed.Addr().String(), "the connection is refused. Check the port, and that the service runs there",
			codes.Unavailable, nil,
		},
		"unknown name": {
			"nowhere.invalid:1", "its name cannot be resolved. Check its spelling, and the DNS of this machine",
			codes.Unavailable, nil,
		},
		"untrusted certificate": {secured.Address(), handshake, codes.Unavailable, []ratelimit.ClientOption{encrypted}},
		"server without TLS":    {plain.Address(), handshake, codes.Unavailable, []ratelimit.ClientOption{encrypted}},
		"client without TLS": {
			secured.Address(), "it closes the connection. If it has TLS, set the option tls", codes.Unavailable, nil,
		},
		"never accepts": {
			listening(t).Addr().String(), "no answer. Check that the service runs there, that no firewall is in the way, and that both sides use TLS or neither",
			codes.DeadlineExceeded, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, err := ratelimit.NewClient(one.target, one.options...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			defer cancel()
			err = client.Ready(ctx)
			var failure *ratelimit.Error
			if !errors.As(err, &failure) || failure.Code != one.code || !errors.Is(err, context.DeadlineExceeded) ||
				!strings.HasPrefix(failure.Message, one.target+" is not ready: "+one.wrong+".") {
				t.Errorf("got %v", err)
			}
			if got := client.Failures(); got != (ratelimit.Failures{}) {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

// A caller that cancels gets the context's error alone.
func TestReadyIsCancelled(t *testing.T) {
	client, err := ratelimit.NewClient(listening(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	if err := client.Ready(ctx); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// A caller that abandons its call while the first connection is awaited gets the context's error, and no failure is counted.
func TestAbandonedWhileConnecting(t *testing.T) {
	client, err := ratelimit.NewClient(listening(t).Addr().String(), ratelimit.WithConnectTimeout(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Check(ctx, order); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
}
