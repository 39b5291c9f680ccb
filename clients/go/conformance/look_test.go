package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// look compares what a step names with what was seen, and knows which names nobody has looked at.
type look struct {
	t      *testing.T
	number int
	left   sees
}

func newLook(t *testing.T, number int, named sees) *look {
	left := sees{}
	for name, value := range named {
		left[name] = value
	}
	return &look{t: t, number: number, left: left}
}

func (l *look) fault(format string, args ...any) {
	l.t.Helper()
	l.t.Errorf("step %d: %s", l.number, fmt.Sprintf(format, args...))
}

// field compares one named value, as JSON.
func (l *look) field(name string, got any) {
	l.t.Helper()
	if wanted, named := l.take(name); named {
		l.same(name, wanted, got)
	}
}

func (l *look) take(name string) (json.RawMessage, bool) {
	wanted, named := l.left[name]
	delete(l.left, name)
	return wanted, named
}

func (l *look) same(name string, wanted json.RawMessage, got any) {
	l.t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		l.t.Fatal(err)
	}
	var wantedValue, gotValue any
	if err := errors.Join(json.Unmarshal(wanted, &wantedValue), json.Unmarshal(text, &gotValue)); err != nil {
		l.t.Fatal(err)
	}
	if !reflect.DeepEqual(wantedValue, gotValue) {
		l.fault("%s is %s, not %s", name, text, wanted)
	}
}

func (l *look) nothingLeft() {
	l.t.Helper()
	for name := range l.left {
		l.fault("nobody looked at %q", name)
	}
}

func (l *look) decision(decision ratelimit.Decision) {
	l.t.Helper()
	l.field("allowed", decision.Allowed)
	l.field("reason", reasonValue(decision.Reason))
	l.field("source", decision.Source.String())
	l.field("origin", decision.Origin)
	l.field("key_id", decision.KeyID)
	l.field("subject", decision.Subject)
	l.field("plan", decision.Plan)
	l.field("limit", decision.Limit)
	l.field("remaining", decision.Remaining)
	l.field("retry_after_ms", milliseconds(decision.RetryAfter))
	l.limits(decision.Limits)
	l.headers(decision)
	l.refusal(decision)
}

func (l *look) limits(limits []ratelimit.WeighedLimit) {
	l.t.Helper()
	wanted, named := l.take("limits")
	if !named {
		return
	}
	got := []map[string]any{}
	for _, limit := range limits {
		got = append(got, map[string]any{
			"name":           limit.Name,
			"remaining":      limit.Remaining,
			"reset_after_ms": milliseconds(&limit.ResetAfter),
			"retry_after_ms": milliseconds(limit.RetryAfter),
			"shadow":         limit.Shadow,
		})
	}
	l.same("limits", wanted, got)
}

func (l *look) headers(decision ratelimit.Decision) {
	l.t.Helper()
	wanted, named := l.take("headers")
	if !named {
		return
	}
	var styles map[ratelimit.Style]json.RawMessage
	if err := json.Unmarshal(wanted, &styles); err != nil {
		l.t.Fatal(err)
	}
	for style, headers := range styles {
		got := map[string]string{}
		for _, header := range decision.Headers(style) {
			got[header.Name] = header.Value
		}
		l.same("headers in style "+string(style), headers, got)
	}
}

func (l *look) refusal(decision ratelimit.Decision) {
	l.t.Helper()
	refusal, refused := decision.Refusal()
	if !refused {
		l.field("http", nil)
		l.field("grpc", nil)
		return
	}
	l.field("http", map[string]any{"status": refusal.HTTPStatus, "problem": json.RawMessage(refusal.Problem())})
	wanted, named := l.take("grpc")
	if !named {
		return
	}
	// Without a reason named, the reason is a number in the one case that has it: not checked.
	var some map[string]any
	if err := json.Unmarshal(wanted, &some); err != nil {
		l.t.Fatal(err)
	}
	got := map[string]any{"retry_delay_ms": nil}
	answer := refusal.GRPCStatus()
	got["code"], got["message"] = codeName(answer.Code()), answer.Message()
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if _, checked := some["reason"]; checked {
				got["reason"] = detail.Reason
			}
			if detail.Domain != "ratelimit.v1" || detail.Metadata["limit"] != decision.Limit {
				l.fault("the ErrorInfo is %v", detail)
			}
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay.AsDuration()
			got["retry_delay_ms"] = milliseconds(&delay)
		}
	}
	l.same("grpc", wanted, got)
}

// ended says whether the caller was to give up, and checks that it did.
func (l *look) ended(err error) bool {
	l.t.Helper()
	wanted, named := l.take("abandoned")
	switch {
	case !named:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		l.same("abandoned", wanted, "deadline")
	case errors.Is(err, context.Canceled):
		l.same("abandoned", wanted, "cancelled")
	default:
		l.fault("the call returned %v although its caller gave up", err)
	}
	return true
}

func (l *look) raised(err error) {
	l.t.Helper()
	wanted, named := l.take("error")
	if !named {
		if err != nil {
			l.fault("the call raised %v", err)
		}
		return
	}
	var told *ratelimit.Error
	if !errors.As(err, &told) {
		l.fault("the call returned %v, not an Error", err)
		return
	}
	var some map[string]json.RawMessage
	if err := json.Unmarshal(wanted, &some); err != nil {
		l.t.Fatal(err)
	}
	got := map[string]string{
		"status": codeName(told.Code), "message": told.Message, "reason": told.Reason, "field": told.Field,
	}
	for name, value := range some {
		l.same("raises."+name, value, got[name])
	}
}

func (l *look) attempts(seen []scripted.Attempt) {
	l.t.Helper()
	if wanted, named := l.take("server_deadline_ms"); named && len(seen) > 0 {
		var most int64
		if err := json.Unmarshal(wanted, &most); err != nil {
			l.t.Fatal(err)
		}
		if left := seen[0].TimeLeft; left > time.Duration(most)*time.Millisecond {
			l.fault("the server saw %v left of the deadline; at most %d ms", left, most)
		}
	}
	wanted, named := l.take("attempts")
	if !named {
		return
	}
	var each []map[string]json.RawMessage
	if err := json.Unmarshal(wanted, &each); err != nil {
		l.t.Fatal(err)
	}
	if len(each) != len(seen) {
		l.fault("the server saw %d attempts, not %d", len(seen), len(each))
		return
	}
	for i, fields := range each {
		request := seen[i].Request
		cost := uint32(1)
		if request.Cost != nil {
			cost = *request.Cost
		}
		got := map[string]any{
			"api_key": request.GetApiKey(), "key_id": request.GetKeyId(), "resource": request.Resource,
			"cost": cost, "request_id": request.RequestId,
		}
		for name, value := range fields {
			l.same(fmt.Sprintf("attempts[%d].%s", i, name), value, got[name])
		}
	}
}

func (l *look) failures(counted ratelimit.Failures, callbacks uint64) {
	l.t.Helper()
	l.field("failures", map[string]uint64{"open": counted.Open, "closed": counted.Closed})
	if callbacks != counted.Open+counted.Closed {
		l.fault("the callback was called %d times for %+v", callbacks, counted)
	}
}

func (l *look) took(duration time.Duration) {
	l.t.Helper()
	wanted, named := l.take("duration_ms")
	if !named {
		return
	}
	var bounds struct {
		AtLeast int64 `json:"min"`
		AtMost  int64 `json:"max"`
	}
	if err := json.Unmarshal(wanted, &bounds); err != nil {
		l.t.Fatal(err)
	}
	if took := duration.Milliseconds(); took < bounds.AtLeast || (bounds.AtMost > 0 && took > bounds.AtMost) {
		l.fault("the call took %v", duration)
	}
}

func (l *look) response(response *http.Response, body []byte) {
	l.t.Helper()
	wanted, _ := l.take("response")
	var want struct {
		Status  int                `json:"status"`
		Headers map[string]*string `json:"headers"`
		Problem json.RawMessage    `json:"problem"`
		Body    *string            `json:"body"`
	}
	if err := json.Unmarshal(wanted, &want); err != nil {
		l.t.Fatal(err)
	}
	if response.StatusCode != want.Status {
		l.fault("the status is %d, not %d", response.StatusCode, want.Status)
	}
	for name, value := range want.Headers {
		got := response.Header.Values(name)
		switch {
		case value == nil && len(got) > 0:
			l.fault("there is a header %s: %q", name, got)
		case value != nil && (len(got) != 1 || got[0] != *value):
			l.fault("the header %s is %q, not %q", name, got, *value)
		}
	}
	if want.Problem != nil {
		l.same("problem", want.Problem, json.RawMessage(body))
	}
	if want.Body != nil && string(body) != *want.Body {
		l.fault("the body is %q, not %q", body, *want.Body)
	}
}

// reasonValue is a reason as the cases write it: its name, or its number if this version of the API has no name for it.
func reasonValue(reason ratelimit.Reason) any {
	if name, named := ratelimitv1.CheckLimitResponse_Reason_name[int32(reason)]; named {
		return name
	}
	return int32(reason)
}

func milliseconds(duration *time.Duration) any {
	if duration == nil {
		return nil
	}
	return float64(*duration) / float64(time.Millisecond)
}

// codeName is the name of a code as the cases write it.
func codeName(code codes.Code) string {
	for _, name := range []string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
		"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	} {
		if named, err := codeOf(name); err == nil && named == code {
			return name
		}
	}
	return code.String()
}
