// Package scripted is a real gRPC server that answers CheckLimit as a test tells it to.
package scripted

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// Answer is what the server does with one attempt.
type Answer func(ctx context.Context) (*ratelimitv1.CheckLimitResponse, error)

// Decide answers with a decision.
func Decide(response *ratelimitv1.CheckLimitResponse) Answer {
	return func(context.Context) (*ratelimitv1.CheckLimitResponse, error) { return response, nil }
}

// Fail answers with an error.
func Fail(answer *status.Status) Answer {
	return func(context.Context) (*ratelimitv1.CheckLimitResponse, error) { return nil, answer.Err() }
}

// Hang answers nothing until the client gives up.
func Hang() Answer {
	return func(ctx context.Context) (*ratelimitv1.CheckLimitResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// Attempt is what the server saw.
type Attempt struct {
	Request  *ratelimitv1.CheckLimitRequest
	Metadata metadata.MD
	// TimeLeft is what was left of the deadline. Negative when there was none.
	TimeLeft time.Duration
	// Peer is the other end of the connection.
	Peer string
}

// Server answers as scripted; an attempt beyond the script is answered with OUT_OF_RANGE.
type Server struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
	grpc     *grpc.Server
	address  string
	mutex    sync.Mutex
	script   []Answer
	attempts []Attempt
	opened   connectionCount
}

// Start serves on a free port of loopback until Stop.
func Start(options ...grpc.ServerOption) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &Server{address: listener.Addr().String()}
	server.grpc = grpc.NewServer(append(options, grpc.StatsHandler(&server.opened))...)
	ratelimitv1.RegisterRateLimitServiceServer(server.grpc, server)
	go func() { _ = server.grpc.Serve(listener) }()
	return server, nil
}

// Address is the host and port.
func (s *Server) Address() string { return s.address }

// Stop ends the server and its connections.
func (s *Server) Stop() { s.grpc.Stop() }

// Script sets what comes next, and forgets the attempts so far.
func (s *Server) Script(answers ...Answer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.script, s.attempts = answers, nil
}

// Attempts is what has come since Script.
func (s *Server) Attempts() []Attempt {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]Attempt(nil), s.attempts...)
}

// Connected waits until a client has made its connections, so that no call pays for a handshake with its deadline.
func (s *Server) Connected(connections int) {
	eventually(func() bool { return s.opened.Load() >= int64(connections) })
}

// Attempted waits until that many attempts have come: a client that gives up may be told before the server has looked.
func (s *Server) Attempted(attempts int) {
	eventually(func() bool { return len(s.Attempts()) >= attempts })
}

// CheckLimit answers as scripted.
func (s *Server) CheckLimit(
	ctx context.Context, request *ratelimitv1.CheckLimitRequest,
) (*ratelimitv1.CheckLimitResponse, error) {
	return s.next(ctx, request)(ctx)
}

func (s *Server) next(ctx context.Context, request *ratelimitv1.CheckLimitRequest) Answer {
	attempt := Attempt{Request: request, TimeLeft: -1, Peer: peerOf(ctx)}
	attempt.Metadata, _ = metadata.FromIncomingContext(ctx)
	if deadline, set := ctx.Deadline(); set {
		attempt.TimeLeft = time.Until(deadline)
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.attempts = append(s.attempts, attempt)
	if len(s.script) == 0 {
		return Fail(status.New(codes.OutOfRange, "an attempt beyond the script"))
	}
	answer := s.script[0]
	s.script = s.script[1:]
	return answer
}

// eventually waits until it is so, for 5 seconds at most: whoever waits then looks for itself.
func eventually(isSo func() bool) {
	for ends := time.Now().Add(5 * time.Second); !isSo() && time.Now().Before(ends); {
		time.Sleep(2 * time.Millisecond)
	}
}
