package e2e_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// slow is a client with a deadline that a busy machine does not miss.
func slow(t *testing.T) *ratelimit.Client {
	t.Helper()
	client, err := ratelimit.NewClient(service.Listen, ratelimit.WithDeadline(10*time.Second), ratelimit.WithFailOpen(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func check(t *testing.T, client *ratelimit.Client, request ratelimit.CheckRequest) ratelimit.Decision {
	t.Helper()
	decision, err := client.Check(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return decision
}

// A burst on plan free is allowed its 20 tokens, then denied until RetryAfter has passed.
func TestABurst(t *testing.T) {
	client := slow(t)
	order := ratelimit.CheckRequest{APIKey: service.APIKey, Resource: "orders.create"}
	// Other tests share the bucket: 20 tokens at 10 a second are back after 2 seconds.
	time.Sleep(2100 * time.Millisecond)
	started := time.Now()
	allowed := 0
	decision := check(t, client, order)
	for ; decision.Allowed; decision = check(t, client, order) {
		allowed++
		if decision.Plan != "free" || decision.KeyID == "" || decision.Source != ratelimit.SourceStore {
			t.Fatalf("got %+v", decision)
		}
	}
	if maximum := 20 + int(time.Since(started).Seconds()*10) + 1; allowed < 20 || allowed > maximum {
		t.Errorf("%d calls were allowed, not 20 to %d", allowed, maximum)
	}
	if decision.Reason != ratelimit.ReasonOverLimit || decision.Limit != "burst" || decision.RetryAfter == nil {
		t.Fatalf("got %+v", decision)
	}
	wait := *decision.RetryAfter
	if wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("the wait is %v", wait)
	}
	time.Sleep(wait)
	if decision := check(t, client, order); !decision.Allowed || decision.Origin != ratelimit.OriginService {
		t.Errorf("after the wait: %+v", decision)
	}
}

// A call that is repeated with its request id is charged once and gets the same decision.
func TestARepeatedCallIsChargedOnce(t *testing.T) {
	client := slow(t)
	time.Sleep(500 * time.Millisecond)
	order := ratelimit.CheckRequest{APIKey: service.APIKey, Resource: "orders.create", Cost: 2, RequestID: "go-e2e-1"}
	first := check(t, client, order)
	again := check(t, client, order)
	if !first.Allowed || !again.Allowed || first.Remaining != again.Remaining {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

// A malformed key is denied like any other that does not exist.
func TestAMalformedKey(t *testing.T) {
	decision := check(t, slow(t), ratelimit.CheckRequest{APIKey: "garbage", Resource: "orders.create"})
	if decision.Allowed || decision.Reason != ratelimit.ReasonKeyUnknown || decision.Origin != ratelimit.OriginService {
		t.Errorf("got %+v", decision)
	}
}

// An absent key is an error with its field.
func TestAnAbsentKey(t *testing.T) {
	_, err := slow(t).Check(t.Context(), ratelimit.CheckRequest{Resource: "orders.create"})
	var invalid *ratelimit.Error
	if !errors.As(err, &invalid) || invalid.Code != codes.InvalidArgument || invalid.Reason != "INVALID_FIELD" || invalid.Field != "api_key" {
		t.Errorf("got %v", err)
	}
}

// A peek charges nothing.
func TestAPeekChargesNothing(t *testing.T) {
	client := slow(t)
	request := ratelimit.CheckRequest{APIKey: service.APIKey, Resource: "orders.create"}
	first, err := client.Peek(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.Peek(t.Context(), request)
	if err != nil || again.Remaining < first.Remaining || !again.Allowed {
		t.Errorf("got %+v, then %+v, %v", first, again, err)
	}
}
