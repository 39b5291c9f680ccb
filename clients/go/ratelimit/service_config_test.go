package ratelimit_test

import (
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// The service config is the one of the contract, and gRPC takes it.
func TestServiceConfig(t *testing.T) {
	contract, err := os.ReadFile("../../conformance/service_config.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(contract) != ratelimit.ServiceConfig {
		t.Error("service_config.json differs from the one in clients/conformance: copy that one here")
	}
	connection, err := grpc.NewClient("localhost:1",
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(ratelimit.ServiceConfig))
	if err != nil {
		t.Fatal(err)
	}
	_ = connection.Close()
}
