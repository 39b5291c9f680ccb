// Package allowing is a server that allows every call and grants every unit, in a process of its own, so that a benchmark counts the
// caller's work alone.
package allowing

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// role is the variable by which a program that was started again is the server.
const role = "RATELIMIT_ALLOWING_SERVER"

// ttl is how long units may be spent: as long as the service lets them at most.
const ttl = time.Second

// Main makes this process the server if it was started as that: then it does not return.
func Main() {
	if os.Getenv(role) != "" {
		serve()
		os.Exit(0)
	}
}

// Start runs this program again as the server, until stop.
func Start() (address string, stop func(), err error) {
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), role+"=1")
	server.Stderr = os.Stderr
	// The server ends when its standard input does, so that it does not outlive this program.
	if _, err := server.StdinPipe(); err != nil {
		return "", nil, err
	}
	output, err := server.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	address, err = bufio.NewReader(output).ReadString('\n')
	stop = func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	return strings.TrimSpace(address), stop, err
}

// service responds to every call with the decision of a call on plan free.
type service struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
}

func (service) CheckLimit(context.Context, *ratelimitv1.CheckLimitRequest) (*ratelimitv1.CheckLimitResponse, error) {
	return decision(), nil
}

func (service) Grant(_ context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	return granted(request), nil
}

func (service) StreamGrant(stream grpc.BidiStreamingServer[ratelimitv1.StreamGrantRequest, ratelimitv1.StreamGrantResponse]) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		response := &ratelimitv1.StreamGrantResponse{}
		for _, request := range message.Requests {
			result := &ratelimitv1.GrantResult_Response{Response: granted(request)}
			response.Results = append(response.Results, &ratelimitv1.GrantResult{Result: result})
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func granted(request *ratelimitv1.GrantRequest) *ratelimitv1.GrantResponse {
	response := &ratelimitv1.GrantResponse{GrantId: request.GrantId, Granted: request.Wants, ReturnsMade: true}
	if request.Wants > 0 {
		response.Ttl, response.Decision, response.ResourcePrefix = durationpb.New(ttl), decision(), new(string)
	}
	return response
}

func decision() *ratelimitv1.CheckLimitResponse {
	return &ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, Source: ratelimit.SourceStore,
		KeyId: "4fGh2kLm9PqR7sTv", Subject: "acme", Plan: "free", Limit: "burst", Remaining: 19,
		Limits: []*ratelimitv1.LimitResult{
			limit("burst", 20, 19, 100*time.Millisecond, 2*time.Second),
			limit("daily", 10_000, 9_980, time.Hour, 24*time.Hour),
		},
	}
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
	ratelimitv1.RegisterRateLimitServiceServer(server, service{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
