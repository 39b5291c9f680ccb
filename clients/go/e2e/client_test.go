package e2e_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// patient is a client that a busy machine does not drive to its own decisions.
func patient(t *testing.T) *ratelimit.Client {
	t.Helper()
	client, err := ratelimit.New(service.Listen, ratelimit.WithDeadline(10*time.Second), ratelimit.WithFailOpen(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func check(t *testing.T, client *ratelimit.Client, request ratelimit.Request) ratelimit.Decision {
	t.Helper()
	decision, err := client.Check(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return decision
}

// A burst on plan free is granted its 20 tokens, then denied with a wait that is remembered and that holds.
func TestABurst(t *testing.T) {
	client := patient(t)
	order := ratelimit.Request{APIKey: service.APIKey, Resource: "orders.create"}
	// Other tests share the bucket: 20 tokens at 10 a second are back after 2 seconds.
	time.Sleep(2100 * time.Millisecond)
	began := time.Now()
	granted := 0
	decision := check(t, client, order)
	for ; decision.Allowed; decision = check(t, client, order) {
		granted++
		if decision.Plan != "free" || decision.KeyID == "" || decision.Source != ratelimit.SourceStore {
			t.Fatalf("got %+v", decision)
		}
	}
	if most := 20 + int(time.Since(began).Seconds()*10) + 1; granted < 20 || granted > most {
		t.Errorf("%d calls were granted, not 20 to %d", granted, most)
	}
	if decision.Reason != ratelimit.OverLimit || decision.Limit != "burst" || decision.RetryAfter == nil {
		t.Fatalf("got %+v", decision)
	}
	wait := *decision.RetryAfter
	if wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("the wait is %v", wait)
	}
	time.Sleep(wait)
	if decision := check(t, client, order); !decision.Allowed || decision.Origin != ratelimit.FromService {
		t.Errorf("after the wait: %+v", decision)
	}
}

// A call that is repeated with its request id is charged once and answered the same.
func TestARepeatedCallIsChargedOnce(t *testing.T) {
	client := patient(t)
	time.Sleep(500 * time.Millisecond)
	order := ratelimit.Request{APIKey: service.APIKey, Resource: "orders.create", Cost: 2, RequestID: "go-e2e-1"}
	first := check(t, client, order)
	again := check(t, client, order)
	if !first.Allowed || !again.Allowed || first.Remaining != again.Remaining {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

// A malformed key is raised with the field that is at fault.
func TestAMalformedKey(t *testing.T) {
	_, err := patient(t).Check(t.Context(), ratelimit.Request{APIKey: "garbage", Resource: "orders.create"})
	var told *ratelimit.Error
	if !errors.As(err, &told) || told.Code != codes.InvalidArgument || told.Reason != "INVALID_FIELD" || told.Field != "api_key" {
		t.Errorf("got %v", err)
	}
}

// To look takes nothing.
func TestALookTakesNothing(t *testing.T) {
	client := patient(t)
	request := ratelimit.Request{APIKey: service.APIKey, Resource: "orders.create"}
	first, err := client.Look(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := client.Look(t.Context(), request)
	if err != nil || again.Remaining < first.Remaining || !again.Allowed {
		t.Errorf("got %+v, then %+v, %v", first, again, err)
	}
}
