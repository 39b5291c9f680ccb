// Package ratelimit is a client of the rate limit service: may this call proceed?
//
//	client, err := ratelimit.NewClient("localhost:50051")
//	decision, err := client.Check(ctx, ratelimit.CheckRequest{APIKey: key, Resource: "orders.create"})
//	if err == nil && decision.Allowed { ... }
//
// A denial is data, not an error: Decision.Allowed is false and Decision.Reason is why. When the service fails, the client
// decides by itself, open or closed, and counts it. An error is returned only for what the caller or the configuration has
// to fix (an invalid request, a wrong token), and for a context that has ended.
//
// Package ratelimithttp has middleware for net/http, package ratelimitgrpc has interceptors for gRPC servers.
package ratelimit
