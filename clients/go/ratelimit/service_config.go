package ratelimit

import _ "embed"

// ServiceConfig is the gRPC service config that is recommended for calling the generated stubs without a Client, as
// in grpc.WithDefaultServiceConfig. Its retries are only for calls with a request id.
//
//go:embed service_config.json
var ServiceConfig string
