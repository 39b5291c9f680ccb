package ratelimit_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
)

// With TLS, a server with a valid certificate is called, and one with another is not.
func TestTLS(t *testing.T) {
	// The test server of net/http has a certificate for example.com.
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(certified.Certificate())
	server, err := scripted.Start(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: certified.TLS.Certificates})))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	for name, want := range map[string]ratelimit.Origin{
		"example.com": ratelimit.OriginService, "other.test": ratelimit.OriginFallback,
	} {
		client, err := ratelimit.NewClient(server.Address(), ratelimit.WithDeadline(10*time.Second),
			ratelimit.WithTLS(&tls.Config{RootCAs: trusted, ServerName: name}))
		if err != nil {
			t.Fatal(err)
		}
		server.Script(allow)
		decision, err := client.Check(t.Context(), order)
		if err != nil || decision.Origin != want {
			t.Errorf("%s: got %+v, %v", name, decision, err)
		}
		_ = client.Close()
	}
}
