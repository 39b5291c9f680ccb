package ratelimit_test

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// A reset with ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED, as too large a message is, and so never fails open.
func TestEnhanceYourCalmIsReturned(t *testing.T) {
	client := clientOfResetServer(t, http2.ErrCodeEnhanceYourCalm)
	decision, err := client.Check(t.Context(), order)
	exhausted, isError := err.(*ratelimit.Error)
	if !isError || exhausted.Code != codes.ResourceExhausted || decision.Allowed {
		t.Errorf("got %+v, %v", decision, err)
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
}

// A call that the server resets with another code, or cancels, fails open.
func TestAnyOtherResetIsAFailure(t *testing.T) {
	for _, code := range []http2.ErrCode{http2.ErrCodeInternal, http2.ErrCodeCancel} {
		decision, err := clientOfResetServer(t, code).Check(t.Context(), order)
		if err != nil || decision.Reason != ratelimit.ReasonDegradedAllowed {
			t.Errorf("%v: got %+v, %v", code, decision, err)
		}
	}
}

// clientOfResetServer is a client of a server that resets every call with that code, which gRPC servers do not expose.
func clientOfResetServer(t *testing.T, code http2.ErrCode) *ratelimit.Client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go resetCalls(connection, code)
		}
	}()
	client, err := ratelimit.NewClient(listener.Addr().String(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// resetCalls serves one HTTP/2 connection until it is closed.
func resetCalls(connection net.Conn, code http2.ErrCode) {
	defer connection.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(connection, preface); err != nil {
		return
	}
	frames := http2.NewFramer(connection, connection)
	if err := frames.WriteSettings(); err != nil {
		return
	}
	for {
		frame, err := frames.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = frames.WriteSettingsAck()
			}
		case *http2.HeadersFrame:
			err = frames.WriteRSTStream(frame.StreamID, code)
		}
		if err != nil {
			return
		}
	}
}
