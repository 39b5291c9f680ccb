// Package ratelimit asks a ratelimit-service whether a call may go on.
//
//	client, err := ratelimit.New("localhost:50051")
//	decision, err := client.Check(ctx, ratelimit.Request{APIKey: key, Resource: "orders.create"})
//	if err == nil && decision.Allowed { ... }
//
// A denial is data, not an error: Decision.Allowed is false and Decision.Reason says why. When the service cannot be
// asked, the client decides by itself, open or closed, and counts it. An error is returned only for what the caller
// has to mend (a malformed request, a token that is not good) or has ended (a cancelled context).
//
// Package ratelimithttp has middleware for net/http, package ratelimitgrpc has interceptors for gRPC servers.
package ratelimit
