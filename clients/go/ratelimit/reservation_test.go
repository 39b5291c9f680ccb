package ratelimit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

var (
	reserved = scripted.Decide(&ratelimitv1.CheckLimitResponse{
		Allowed: true, Reason: ratelimit.ReasonWithinLimit, ReservationId: "rsv_1",
	})
	settled = scripted.Respond(&ratelimitv1.SettleLimitResponse{Allowed: true}).To("SettleLimit")
	answer  = ratelimit.ReserveRequest{APIKey: "rlk_test_a", Resource: "chat.create", Estimate: 500, Hold: time.Minute}
)

func reserve(t *testing.T, client *ratelimit.Client, request ratelimit.ReserveRequest) *ratelimit.Reservation {
	t.Helper()
	reservation, err := client.Reserve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return reservation
}

// Goroutines that settle at once get one settlement: one of them sends it, the others wait for its result.
func TestSettlingAtOnce(t *testing.T) {
	server, client := start(t)
	server.Script(reserved, settled)
	reservation := reserve(t, client, answer)
	results := make(chan ratelimit.Settlement)
	for cost := range uint64(8) {
		go func() {
			settlement, err := reservation.Settle(t.Context(), cost)
			if err != nil {
				t.Error(err)
			}
			results <- settlement
		}()
	}
	for range 8 {
		if settlement := <-results; !settlement.Settled {
			t.Errorf("got %+v", settlement)
		}
	}
	if attempts := server.Attempts(); len(attempts) != 2 {
		t.Errorf("the server received %d attempts", len(attempts))
	}
}

// A caller that waits for another's settlement can abandon that.
func TestAbandoningAWaitingSettle(t *testing.T) {
	server, client := start(t)
	server.Script(reserved, scripted.Hang().To("SettleLimit"))
	reservation := reserve(t, client, answer)
	first, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := reservation.Settle(first, 120)
		ended <- err
	}()
	server.WaitForAttempts(2)
	second, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := reservation.Settle(second, 120); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Closing the client lets go of open scopes: what they settle afterwards is not sent, and their holds are not extended.
func TestClosingTheClientOfOpenScopes(t *testing.T) {
	server, client := start(t)
	server.Script(reserved, reserved)
	short := answer
	short.Hold = 2 * time.Second
	first, second := reserve(t, client, short), reserve(t, client, answer)
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond)
	settlement, err := first.Settle(t.Context(), 120)
	if err != nil || settlement.Settled || !settlement.Allowed || settlement.Failure != nil {
		t.Errorf("got %+v, %v", settlement, err)
	}
	if extended, err := first.Extend(t.Context(), time.Minute); extended || err != nil {
		t.Errorf("got %v, %v", extended, err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Error(err)
	}
	if attempts := server.Attempts(); len(attempts) != 2 {
		t.Errorf("the server received %d attempts", len(attempts))
	}
	if failures := client.Failures(); failures != (ratelimit.Failures{}) {
		t.Errorf("got %+v", failures)
	}
}

// Close after Abandon, and either of them a second time, sends nothing.
func TestAScopeEndsOnce(t *testing.T) {
	server, client := start(t)
	server.Script(reserved, scripted.Fail(status.New(codes.PermissionDenied, "no")).To("SettleLimit"))
	reservation := reserve(t, client, answer)
	reservation.Abandon()
	reservation.Abandon()
	if err := errors.Join(reservation.Close(), reservation.Close()); err != nil {
		t.Error(err)
	}
	if attempts := server.Attempts(); len(attempts) != 2 {
		t.Errorf("the server received %d attempts", len(attempts))
	}
	if failures := client.Failures(); failures != (ratelimit.Failures{Unsettled: 1}) {
		t.Errorf("got %+v", failures)
	}
}
