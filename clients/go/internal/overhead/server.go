package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// allowing responds to every call with the decision of a call on plan free.
type allowing struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
}

func (allowing) CheckLimit(context.Context, *ratelimitv1.CheckLimitRequest) (*ratelimitv1.CheckLimitResponse, error) {
	return &ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, Source: ratelimit.SourceStore,
		KeyId: "4fGh2kLm9PqR7sTv", Subject: "acme", Plan: "free", Limit: "burst", Remaining: 19,
		Limits: []*ratelimitv1.LimitResult{
			limit("burst", 20, 19, 100*time.Millisecond, 2*time.Second),
			limit("daily", 10_000, 9_980, time.Hour, 24*time.Hour),
		},
	}, nil
}

func limit(name string, amount, remaining int64, resetAfter, window time.Duration) *ratelimitv1.LimitResult {
	return &ratelimitv1.LimitResult{
		Name: name, Limit: amount, Remaining: remaining,
		ResetAfter: durationpb.New(resetAfter), Window: durationpb.New(window),
	}
}

// serve prints its address and serves until standard input ends.
func serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	ratelimitv1.RegisterRateLimitServiceServer(server, allowing{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
