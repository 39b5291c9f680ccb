package conformance_test

import (
	"encoding/json"
	"io"
	"net"
	"testing"
	"time"
)

// lateProxy is the address of a proxy that listens at once, but accepts connections only after that many milliseconds, or never
// if that is null.
func lateProxy(t *testing.T, server string, acceptsAfterMS json.RawMessage) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if string(acceptsAfterMS) == "null" {
		return listener.Addr().String()
	}
	var after int64
	if err := json.Unmarshal(acceptsAfterMS, &after); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Duration(after)*time.Millisecond, func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = near.Close()
				return
			}
			go forward(near, far)
			go forward(far, near)
		}
	})
	return listener.Addr().String()
}

func forward(source, sink net.Conn) {
	_, _ = io.Copy(sink, source)
	_ = source.Close()
	_ = sink.Close()
}
