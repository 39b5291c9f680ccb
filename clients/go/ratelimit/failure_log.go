package ratelimit

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
)

// failureLog logs the first failure at once and then one a minute, with the number of those since.
type failureLog struct {
	target string
	logger func() *slog.Logger
	clock  func() time.Time

	mutex    sync.Mutex
	loggedAt time.Time
	more     int
}

// failed logs a failure, or counts it for the next warning.
func (l *failureLog) failed(failure *Error, outcome string) {
	more, due := l.due()
	if !due {
		return
	}
	l.logger().Warn(l.text(failure, outcome, more))
}

// due is whether a warning is due, and the number of failures since the last one.
func (l *failureLog) due() (more int, due bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	now := l.clock()
	if !l.loggedAt.IsZero() && now.Sub(l.loggedAt) < time.Minute {
		l.more++
		return 0, false
	}
	more, l.more, l.loggedAt = l.more, 0, now
	return more, true
}

func (l *failureLog) text(failure *Error, outcome string, more int) string {
	done := map[string]string{
		outcomeOpen:      "Rate limit not checked, call allowed (fail open)",
		outcomeClosed:    "Rate limit not checked, call denied (fail closed)",
		outcomeUnsettled: "Reservation not settled, its estimate stays charged",
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %s", done[outcome], code.Code(failure.Code))
	if failure.Reason != "" {
		fmt.Fprintf(&text, " (%s)", failure.Reason)
	}
	fmt.Fprintf(&text, " from %s", l.target)
	if failure.Message != "" {
		fmt.Fprintf(&text, ": %s", strings.TrimSuffix(failure.Message, "."))
	}
	fmt.Fprintf(&text, ". %s.", advice(failure))
	switch {
	case more == 1:
		text.WriteString(" 1 more failure since the last warning.")
	case more > 1:
		fmt.Fprintf(&text, " %d more failures since the last warning.", more)
	}
	return text.String()
}

// advice is what to do about a failure.
func advice(failure *Error) string {
	switch {
	case failure.Code == codes.Unavailable && failure.Reason == reasonOverloaded:
		return "The service has more calls than it can decide: add workers or servers"
	case failure.Code == codes.Unavailable:
		return "Check that the service runs there and can be reached; the client's ready() names the cause"
	case failure.Code == codes.DeadlineExceeded:
		return "No answer within the deadline: check the load of the service and the network, or raise the deadline"
	case failure.Code == codes.Unauthenticated, failure.Code == codes.PermissionDenied:
		return "Check the option token"
	case failure.Code == codes.NotFound:
		return "The hold had ended: extend it, or reserve with a longer one"
	}
	return "See the log of the service"
}
