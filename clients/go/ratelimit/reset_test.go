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
func TestToBeToldToCalmDownIsReturned(t *testing.T) {
	client := clientOfResets(t, http2.ErrCodeEnhanceYourCalm)
	decision, err := client.Check(t.Context(), order)
	told, isError := err.(*ratelimit.Error)
	if !isError || told.Code != codes.ResourceExhausted || decision.Allowed {
		t.Errorf("got %+v, %v", decision, err)
	}
	if got := client.Failures(); got != (ratelimit.Failures{}) {
		t.Errorf("counted %+v", got)
	}
}

// A call that is reset for the server's own reasons, or that the server cancels, fails by the option.
func TestAnyOtherResetIsAFaultOfTheService(t *testing.T) {
	for _, code := range []http2.ErrCode{http2.ErrCodeInternal, http2.ErrCodeCancel} {
		decision, err := clientOfResets(t, code).Check(t.Context(), order)
		if err != nil || decision.Reason != ratelimit.DegradedAllowed {
			t.Errorf("%v: got %+v, %v", code, decision, err)
		}
	}
}

// clientOfResets makes a client of a server that resets every call with that code, which gRPC servers do not let us
// choose.
func clientOfResets(t *testing.T, code http2.ErrCode) *ratelimit.Client {
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
	client, err := ratelimit.New(listener.Addr().String(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// resetCalls speaks HTTP/2 for as long as the connection lasts.
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
