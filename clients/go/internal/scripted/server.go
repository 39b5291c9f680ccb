// Package scripted is a real gRPC server with scripted responses to CheckLimit, to what settles and extends reservations, and to what
// asks for grants.
package scripted

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// SlowMachine is a deadline that a busy machine does not miss.
const SlowMachine = 10 * time.Second

// Response is what the server does with one attempt.
type Response struct {
	method  string
	respond func(ctx context.Context) (proto.Message, error)
}

// The methods of attempts.
const (
	checkLimit  = "CheckLimit"
	settleLimit = "SettleLimit"
	extendHold  = "ExtendHold"
	grant       = "Grant"
)

// Decide responds with a decision.
func Decide(response *ratelimitv1.CheckLimitResponse) Response {
	return Respond(response)
}

// Respond responds to CheckLimit with any message. See Response.To.
func Respond(response proto.Message) Response {
	return Response{checkLimit, func(context.Context) (proto.Message, error) { return response, nil }}
}

// Fail responds with an error.
func Fail(failure *status.Status) Response {
	return Response{checkLimit, func(context.Context) (proto.Message, error) { return nil, failure.Err() }}
}

// Hang does not respond until the client ends the call.
func Hang() Response {
	return Response{checkLimit, func(ctx context.Context) (proto.Message, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}}
}

// To is the same for an attempt of another method: SettleLimit, ExtendHold or Grant.
func (r Response) To(method string) Response {
	r.method = method
	return r
}

// Attempt is one call that the server received. One of the requests is set.
type Attempt struct {
	Request  *ratelimitv1.CheckLimitRequest
	Settle   *ratelimitv1.SettleLimitRequest
	Extend   *ratelimitv1.ExtendHoldRequest
	Grant    *ratelimitv1.GrantRequest
	Metadata metadata.MD
	// TimeLeft is until the deadline. Negative when there is none.
	TimeLeft time.Duration
	// Peer is the client's address, which identifies the connection.
	Peer string
}

// Server responds as scripted; the response to an attempt beyond the script is OUT_OF_RANGE.
type Server struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
	grpc     *grpc.Server
	address  string
	mutex    sync.Mutex
	script   []Response
	attempts []Attempt
	// hasStreams is whether it serves StreamGrant, and withdrawals those that each stream is to send.
	hasStreams  bool
	withdrawals []chan []string
	// unscripted is the number of attempts that were not in the script.
	unscripted int
}

// Start serves on a free port of the loopback interface until Stop.
func Start(options ...grpc.ServerOption) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &Server{address: listener.Addr().String(), grpc: grpc.NewServer(options...)}
	ratelimitv1.RegisterRateLimitServiceServer(server.grpc, server)
	go func() { _ = server.grpc.Serve(listener) }()
	return server, nil
}

// ServeStreams has it serve StreamGrant, too, whose requests are attempts of Grant.
func (s *Server) ServeStreams() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.hasStreams = true
}

// Withdraw withdraws the grants of keys on every stream.
func (s *Server) Withdraw(keyIDs []string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, stream := range s.withdrawals {
		stream <- keyIDs
	}
}

// Address is the host and port.
func (s *Server) Address() string { return s.address }

// Stop stops the server and closes its connections.
func (s *Server) Stop() { s.grpc.Stop() }

// Script sets the next responses, and clears the list of attempts.
func (s *Server) Script(responses ...Response) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.script, s.attempts = responses, nil
}

// Unscripted is the number of attempts that were not in the script, since Start.
func (s *Server) Unscripted() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.unscripted
}

// Attempts is the attempts since Script.
func (s *Server) Attempts() []Attempt {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]Attempt(nil), s.attempts...)
}

// WaitForAttempts waits until there are that many attempts, for 5 seconds at most: an abandoned call may end before the
// server receives it.
func (s *Server) WaitForAttempts(attempts int) {
	for ends := time.Now().Add(5 * time.Second); len(s.Attempts()) < attempts && time.Now().Before(ends); {
		time.Sleep(2 * time.Millisecond)
	}
}

// CheckLimit responds as scripted.
func (s *Server) CheckLimit(
	ctx context.Context, request *ratelimitv1.CheckLimitRequest,
) (*ratelimitv1.CheckLimitResponse, error) {
	return responseOf[*ratelimitv1.CheckLimitResponse](ctx, s.next(ctx, checkLimit, Attempt{Request: request}))
}

// SettleLimit responds as scripted.
func (s *Server) SettleLimit(
	ctx context.Context, request *ratelimitv1.SettleLimitRequest,
) (*ratelimitv1.SettleLimitResponse, error) {
	return responseOf[*ratelimitv1.SettleLimitResponse](ctx, s.next(ctx, settleLimit, Attempt{Settle: request}))
}

// ExtendHold responds as scripted.
func (s *Server) ExtendHold(
	ctx context.Context, request *ratelimitv1.ExtendHoldRequest,
) (*ratelimitv1.ExtendHoldResponse, error) {
	return responseOf[*ratelimitv1.ExtendHoldResponse](ctx, s.next(ctx, extendHold, Attempt{Extend: request}))
}

// Grant responds as scripted.
func (s *Server) Grant(ctx context.Context, request *ratelimitv1.GrantRequest) (*ratelimitv1.GrantResponse, error) {
	return responseOf[*ratelimitv1.GrantResponse](ctx, s.next(ctx, grant, Attempt{Grant: request}))
}

// StreamGrant responds to each request as scripted.
func (s *Server) StreamGrant(stream grpc.BidiStreamingServer[ratelimitv1.StreamGrantRequest, ratelimitv1.StreamGrantResponse]) error {
	withdrawals := make(chan []string, 8)
	s.mutex.Lock()
	hasStreams := s.hasStreams
	s.withdrawals = append(s.withdrawals, withdrawals)
	s.mutex.Unlock()
	if !hasStreams {
		return s.UnimplementedRateLimitServiceServer.StreamGrant(stream)
	}
	messages := make(chan *ratelimitv1.StreamGrantRequest)
	go func() {
		defer close(messages)
		for message, err := stream.Recv(); err == nil; message, err = stream.Recv() {
			messages <- message
		}
	}()
	for {
		response := &ratelimitv1.StreamGrantResponse{}
		select {
		case keyIDs := <-withdrawals:
			for _, keyID := range keyIDs {
				response.Withdrawals = append(response.Withdrawals, &ratelimitv1.GrantWithdrawal{KeyId: keyID})
			}
		case message, more := <-messages:
			if !more {
				return nil
			}
			for _, request := range message.Requests {
				granted, err := s.Grant(stream.Context(), request)
				if err != nil {
					return err
				}
				result := &ratelimitv1.GrantResult_Response{Response: granted}
				response.Results = append(response.Results, &ratelimitv1.GrantResult{Result: result})
			}
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func responseOf[Message proto.Message](ctx context.Context, response Response) (message Message, err error) {
	any, err := response.respond(ctx)
	if err == nil {
		message = any.(Message)
	}
	return message, err
}

func (s *Server) next(ctx context.Context, method string, attempt Attempt) Response {
	attempt.TimeLeft = -1
	attempt.Metadata, _ = metadata.FromIncomingContext(ctx)
	if deadline, set := ctx.Deadline(); set {
		attempt.TimeLeft = time.Until(deadline)
	}
	if client, known := peer.FromContext(ctx); known {
		attempt.Peer = client.Addr.String()
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.attempts = append(s.attempts, attempt)
	if len(s.script) == 0 || s.script[0].method != method {
		s.unscripted++
		return Fail(status.New(codes.OutOfRange, "an attempt that is not in the script"))
	}
	response := s.script[0]
	s.script = s.script[1:]
	return response
}
