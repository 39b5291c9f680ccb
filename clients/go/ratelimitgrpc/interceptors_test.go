package ratelimitgrpc_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
	"github.com/ratelimit-service/clients/go/ratelimitgrpc"
)

const (
	unary  = "/grpc.health.v1.Health/Check"
	stream = "/grpc.health.v1.Health/Watch"
)

var (
	allow = scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, Limit: "burst",
		Limits: []*ratelimitv1.LimitResult{{Name: "burst", Limit: 20, Remaining: 19, Window: durationpb.New(2 * time.Second)}},
	})
	over = scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Reason: ratelimit.ReasonOverLimit, Limit: "burst", RetryAfter: durationpb.New(1500 * time.Millisecond),
		Limits: []*ratelimitv1.LimitResult{{
			Name: "burst", Limit: 20, WouldDeny: true, RetryAfter: durationpb.New(1500 * time.Millisecond),
			Window: durationpb.New(2 * time.Second),
		}},
	})
)

// protected is a health service behind the interceptors, which call a scripted server.
func protected(t *testing.T, options ...ratelimitgrpc.Option) (*scripted.Server, grpc_health_v1.HealthClient) {
	t.Helper()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	service, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Stop)
	client, err := ratelimit.NewClient(service.Address(), ratelimit.WithDeadline(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server := grpc.NewServer(
		grpc.UnaryInterceptor(ratelimitgrpc.UnaryServerInterceptor(client, options...)),
		grpc.StreamInterceptor(ratelimitgrpc.StreamServerInterceptor(client, options...)))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return service, grpc_health_v1.NewHealthClient(connection)
}

// response is what a caller of the protected service gets.
type response struct {
	headers metadata.MD
	status  *status.Status
}

func (r response) info() (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, detail := range r.status.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			info = detail
		case *errdetails.RetryInfo:
			retry = detail
		}
	}
	return info, retry
}

func check(ctx context.Context, service grpc_health_v1.HealthClient) response {
	var headers metadata.MD
	_, err := service.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&headers))
	return response{headers, status.Convert(err)}
}

func watch(ctx context.Context, service grpc_health_v1.HealthClient) response {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching, err := service.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = watching.Recv()
	}
	var headers metadata.MD
	if watching != nil {
		headers, _ = watching.Header()
	}
	return response{headers, status.Convert(err)}
}

var kinds = map[string]struct {
	method string
	call   func(context.Context, grpc_health_v1.HealthClient) response
}{
	"unary": {unary, check}, "stream": {stream, watch},
}

func withKey(t *testing.T) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "x-api-key", "k1")
}

// An allowed call reaches the service, and its initial metadata has the headers.
func TestAllowed(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			limiter, service := protected(t)
			limiter.Script(allow)
			got := kind.call(withKey(t), service)
			if got.status.Code() != codes.OK || len(got.headers.Get("ratelimit")) != 1 ||
				got.headers.Get("ratelimit")[0] != `"burst";r=19;t=0` {
				t.Errorf("got %v with %v", got.status, got.headers)
			}
			if checked := limiter.Attempts()[0].Request; checked.GetApiKey() != "k1" || checked.Resource != kind.method {
				t.Errorf("the limiter received %v", checked)
			}
		})
	}
}

// A call over the limit is RESOURCE_EXHAUSTED, with the limits in the initial metadata and the wait in the details.
func TestOverTheLimit(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			limiter, service := protected(t)
			limiter.Script(over)
			got := kind.call(withKey(t), service)
			if got.status.Code() != codes.ResourceExhausted ||
				got.status.Message() != `Over the limit "burst"; try again in 2 s.` {
				t.Errorf("got %v", got.status)
			}
			if retryAfter := got.headers.Get("retry-after"); len(retryAfter) != 1 || retryAfter[0] != "2" {
				t.Errorf("got the metadata %v", got.headers)
			}
			info, retry := got.info()
			if info.GetReason() != "OVER_LIMIT" || info.GetDomain() != "ratelimit.v1" || info.GetMetadata()["limit"] != "burst" {
				t.Errorf("got the ErrorInfo %v", info)
			}
			if retry.GetRetryDelay().AsDuration() != 1500*time.Millisecond {
				t.Errorf("got the RetryInfo %v", retry)
			}
		})
	}
}

// A call without a key is UNAUTHENTICATED with a challenge, and the limiter is not called.
func TestNoKey(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			limiter, service := protected(t)
			limiter.Script()
			got := kind.call(t.Context(), service)
			info, _ := got.info()
			if got.status.Code() != codes.Unauthenticated || info.GetReason() != "KEY_MISSING" || len(limiter.Attempts()) != 0 {
				t.Errorf("got %v", got.status)
			}
			if challenge := got.headers.Get("www-authenticate"); len(challenge) != 1 || challenge[0] != "ApiKey" {
				t.Errorf("got the metadata %v", got.headers)
			}
		})
	}
}

// An invalid key is UNAUTHENTICATED, like one that does not exist; any other invalid field stays INVALID_ARGUMENT.
func TestInvalid(t *testing.T) {
	for field, want := range map[string]struct {
		code   codes.Code
		reason string
	}{
		"api_key": {codes.Unauthenticated, "KEY_UNKNOWN"}, "resource": {codes.InvalidArgument, "INVALID_FIELD"},
	} {
		limiter, service := protected(t)
		invalid, err := status.New(codes.InvalidArgument, field+": invalid").WithDetails(
			&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: "ratelimit.v1"},
			&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field}}})
		if err != nil {
			t.Fatal(err)
		}
		limiter.Script(scripted.Fail(invalid))
		got := check(withKey(t), service)
		info, _ := got.info()
		if got.status.Code() != want.code || info.GetReason() != want.reason {
			t.Errorf("%s: got %v", field, got.status)
		}
	}
}

// A configuration error of this server is INTERNAL: the caller must not take our wrong token for its own.
func TestAConfigurationErrorIsInternal(t *testing.T) {
	limiter, service := protected(t)
	limiter.Script(scripted.Fail(status.New(codes.Unauthenticated, "the token is not known")))
	if got := check(withKey(t), service); got.status.Code() != codes.Internal {
		t.Errorf("got %v", got.status)
	}
}

// A deadline too short for a response of the limiter ends the call; it does not fail open.
func TestAShortDeadlineDoesNotFailOpen(t *testing.T) {
	limiter, service := protected(t)
	limiter.Script(scripted.Hang())
	ctx, cancel := context.WithTimeout(withKey(t), 100*time.Millisecond)
	defer cancel()
	if got := check(ctx, service); got.status.Code() != codes.DeadlineExceeded {
		t.Errorf("got %v", got.status)
	}
}

// Key, resource, cost, header style and the response to errors are those of the options.
func TestOptions(t *testing.T) {
	limiter, service := protected(t,
		ratelimitgrpc.WithKey(func(context.Context, string) string { return "fixed" }),
		ratelimitgrpc.WithResource(func(_ context.Context, method string) string { return "grpc:" + method }),
		ratelimitgrpc.WithCost(func(context.Context, string) uint64 { return 5 }),
		ratelimitgrpc.WithHeaderStyle(ratelimit.HeaderStyleRateLimit),
		ratelimitgrpc.WithOnError(func(context.Context, string, error) error { return status.Error(codes.DataLoss, io.EOF.Error()) }))
	limiter.Script(allow, scripted.Fail(status.New(codes.Unauthenticated, "no")))
	got := check(t.Context(), service)
	checked := limiter.Attempts()[0].Request
	if checked.GetApiKey() != "fixed" || checked.Resource != "grpc:"+unary || checked.GetCost() != 5 {
		t.Errorf("the limiter received %v", checked)
	}
	if remaining := got.headers.Get("ratelimit-remaining"); len(remaining) != 1 || remaining[0] != "19" {
		t.Errorf("got the metadata %v", got.headers)
	}
	if got := check(t.Context(), service); got.status.Code() != codes.DataLoss {
		t.Errorf("got %v", got.status)
	}
}

// A call that is skipped proceeds without a key and without a check.
func TestWhatIsSkippedIsNotChecked(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			limiter, service := protected(t, ratelimitgrpc.WithSkip(func(_ context.Context, method string) bool {
				return method == kind.method
			}))
			limiter.Script()
			got := kind.call(t.Context(), service)
			if got.status.Code() != codes.OK || len(got.headers.Get("ratelimit")) != 0 || len(limiter.Attempts()) != 0 {
				t.Errorf("got %v with %v", got.status, got.headers)
			}
		})
	}
}

// A cost of 0 is a peek.
func TestACostOf0IsAPeek(t *testing.T) {
	limiter, service := protected(t, ratelimitgrpc.WithCost(func(context.Context, string) uint64 { return 0 }))
	limiter.Script(allow)
	check(withKey(t), service)
	if cost := limiter.Attempts()[0].Request.Cost; cost == nil || *cost != 0 {
		t.Errorf("the limiter received the cost %v", cost)
	}
}
