package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// expectation verifies what a step expects, and knows which fields were not verified.
type expectation struct {
	t      *testing.T
	number int
	left   expected
	// decided is how many decisions the caller got, if the caller got those of this step.
	decided           int
	verifiesDecisions bool
}

func newExpectation(t *testing.T, number int, target string, fields expected) *expectation {
	left := expected{}
	for name, value := range fields {
		left[name] = json.RawMessage(strings.ReplaceAll(string(value), "{target}", target))
	}
	return &expectation{t: t, number: number, left: left}
}

func (e *expectation) failf(format string, args ...any) {
	e.t.Helper()
	e.t.Errorf("step %d: %s", e.number, fmt.Sprintf(format, args...))
}

// field compares one field, as JSON, if the step expects it.
func (e *expectation) field(name string, got any) {
	e.t.Helper()
	if wanted, named := e.take(name); named {
		e.same(name, wanted, got)
	}
}

func (e *expectation) take(name string) (json.RawMessage, bool) {
	wanted, named := e.left[name]
	delete(e.left, name)
	return wanted, named
}

func (e *expectation) same(name string, wanted json.RawMessage, got any) {
	e.t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		e.t.Fatal(err)
	}
	var wantedValue, gotValue any
	if err := errors.Join(json.Unmarshal(wanted, &wantedValue), json.Unmarshal(text, &gotValue)); err != nil {
		e.t.Fatal(err)
	}
	if !reflect.DeepEqual(wantedValue, gotValue) {
		e.failf("%s is %s, not %s", name, text, wanted)
	}
}

func (e *expectation) allVerified() {
	e.t.Helper()
	for name := range e.left {
		e.failf("the field %q was not verified", name)
	}
}

func (e *expectation) decision(decision ratelimit.Decision) {
	e.t.Helper()
	e.decided++
	e.field("allowed", decision.Allowed)
	e.field("degraded", decision.Degraded())
	e.field("reason", reasonValue(decision.Reason))
	e.field("source", decision.Source.String())
	e.field("origin", decision.Origin)
	e.field("key_id", decision.KeyID)
	e.field("subject", decision.Subject)
	e.field("plan", decision.Plan)
	e.field("limit", decision.Limit)
	e.field("remaining", decision.Remaining)
	e.field("retry_after_ms", milliseconds(decision.RetryAfter))
	e.limits(decision.Limits)
	e.headers(decision)
	refusal, refused := ratelimit.RefusalForDecision(decision)
	e.refusal(refusal, refused, decision.Limit)
	if (decision.Failure != nil) != (decision.Origin == ratelimit.OriginFallback) {
		e.failf("the failure is %v with origin %s", decision.Failure, decision.Origin)
	}
}

func (e *expectation) limits(limits []ratelimit.LimitResult) {
	e.t.Helper()
	e.field("limits", limitFields(limits))
}

// reservation verifies its decision and its id.
func (e *expectation) reservation(reservation *ratelimit.Reservation) {
	e.t.Helper()
	e.field("reservation_id", reservation.ID)
	e.decision(reservation.Decision)
	if reservation.Allowed != reservation.Decision.Allowed {
		e.failf("allowed is %v, and of the decision %v", reservation.Allowed, reservation.Decision.Allowed)
	}
}

func (e *expectation) settlement(settlement ratelimit.Settlement) {
	e.t.Helper()
	wanted, named := e.take("settlement")
	if !named {
		return
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(wanted, &fields); err != nil {
		e.t.Fatal(err)
	}
	got := map[string]any{
		"settled": settlement.Settled, "allowed": settlement.Allowed, "clamped": settlement.Clamped,
		"limits": limitFields(settlement.Limits),
	}
	for name, value := range fields {
		switch {
		case name != "failure":
			e.same("settlement."+name, value, got[name])
		case string(value) != "null" && settlement.Failure != nil:
			e.errorFields("settlement.failure", value, settlement.Failure)
		case string(value) != "null" || settlement.Failure != nil:
			e.failf("the failure of the settlement is %v, not %s", settlement.Failure, value)
		}
	}
}

func limitFields(limits []ratelimit.LimitResult) []map[string]any {
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
	return got
}

func (e *expectation) headers(decision ratelimit.Decision) {
	e.t.Helper()
	wanted, named := e.take("headers")
	if !named {
		return
	}
	var styles map[ratelimit.HeaderStyle]json.RawMessage
	if err := json.Unmarshal(wanted, &styles); err != nil {
		e.t.Fatal(err)
	}
	for style, headers := range styles {
		got := ratelimit.LimitHeaders(decision, style)
		if refusal, refused := ratelimit.RefusalForDecision(decision); refused {
			got = refusal.Headers(style)
		}
		e.same("headers in style "+string(style), headers, got)
	}
}

// refusal verifies the response to the caller. The limit is the binding one, empty if there is none.
func (e *expectation) refusal(refusal ratelimit.Refusal, refused bool, limit string) {
	e.t.Helper()
	if !refused {
		e.field("http", nil)
		e.field("grpc", nil)
		return
	}
	e.field("http", map[string]any{"status": refusal.HTTPStatus, "problem": refusal.Problem()})
	wanted, named := e.take("grpc")
	if !named {
		return
	}
	// The reason is a number in the one case that does not expect any.
	var fields map[string]any
	if err := json.Unmarshal(wanted, &fields); err != nil {
		e.t.Fatal(err)
	}
	got := map[string]any{"retry_delay_ms": nil}
	status := refusal.GRPCStatus()
	got["code"], got["message"] = codeName(status.Code()), status.Message()
	for _, detail := range status.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if _, expected := fields["reason"]; expected {
				got["reason"] = detail.Reason
			}
			if detail.Domain != "ratelimit.v1" || detail.Metadata["limit"] != limit {
				e.failf("the ErrorInfo is %v", detail)
			}
		case *errdetails.RetryInfo:
			delay := detail.RetryDelay.AsDuration()
			got["retry_delay_ms"] = milliseconds(&delay)
		}
	}
	e.same("grpc", wanted, got)
}

// abandoned is whether the caller abandons the call, and verifies that it got the error for that.
func (e *expectation) abandoned(err error) bool {
	e.t.Helper()
	wanted, named := e.take("abandoned")
	switch {
	case !named:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		e.same("abandoned", wanted, "deadline")
	case errors.Is(err, context.Canceled):
		e.same("abandoned", wanted, "cancelled")
	default:
		e.failf("the abandoned call returned %v", err)
	}
	return true
}

func (e *expectation) error(err error) {
	e.t.Helper()
	wanted, named := e.take("error")
	if !named {
		if err != nil {
			e.failf("the call returned the error %v", err)
		}
		return
	}
	var actual *ratelimit.Error
	if !errors.As(err, &actual) {
		e.failf("the call returned %v, not an Error", err)
		return
	}
	e.errorFields("error", wanted, actual)
	refusal, refused := ratelimit.RefusalForError(err)
	e.refusal(refusal, refused, "")
}

func (e *expectation) errorFields(name string, wanted json.RawMessage, actual *ratelimit.Error) {
	e.t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(wanted, &fields); err != nil {
		e.t.Fatal(err)
	}
	got := map[string]string{
		"status": codeName(actual.Code), "message": actual.Message, "reason": actual.Reason, "field": actual.Field,
	}
	for field, value := range fields {
		e.same(name+"."+field, value, got[field])
	}
}

// attempts verifies what the server received. grantIDs are those of requests for units so far.
func (e *expectation) attempts(attempts []scripted.Attempt, grantIDs []string) {
	e.t.Helper()
	if wanted, named := e.take("server_deadline_ms"); named && len(attempts) > 0 {
		var most int64
		if err := json.Unmarshal(wanted, &most); err != nil {
			e.t.Fatal(err)
		}
		if left := attempts[0].TimeLeft; left > time.Duration(most)*time.Millisecond {
			e.failf("the server had %v left until the deadline, more than %d ms", left, most)
		}
	}
	wanted, named := e.take("attempts")
	if !named {
		return
	}
	var each []map[string]json.RawMessage
	if err := json.Unmarshal(wanted, &each); err != nil {
		e.t.Fatal(err)
	}
	if len(each) != len(attempts) {
		e.failf("the server received %d attempts, not %d", len(attempts), len(each))
		return
	}
	for i, wantedFields := range each {
		got := attemptFields(attempts[i], grantIDs)
		for name, value := range wantedFields {
			e.same(fmt.Sprintf("attempts[%d].%s", i, name), value, got[name])
		}
	}
}

// attemptFields is the fields of a request that a case can have.
func attemptFields(attempt scripted.Attempt, grantIDs []string) map[string]any {
	switch {
	case attempt.Grant != nil:
		return requestFields(attempt.Grant, grantIDs)
	case attempt.Settle != nil:
		return map[string]any{"reservation_id": attempt.Settle.ReservationId, "actual_cost": attempt.Settle.ActualCost}
	case attempt.Extend != nil:
		return map[string]any{"reservation_id": attempt.Extend.ReservationId, "hold_ms": holdFields(attempt.Extend.Hold)}
	}
	request := attempt.Request
	cost := uint64(1)
	if request.Cost != nil {
		cost = *request.Cost
	}
	return map[string]any{
		"api_key": request.GetApiKey(), "key_id": request.GetKeyId(), "resource": request.Resource,
		"cost": cost, "request_id": request.RequestId, "attempt": request.Attempt, "charge": request.Charge.String(), "hold_ms": holdFields(request.Hold),
	}
}

// requestFields is the fields of a request for units. What it returns is named by the number of its request.
func requestFields(request *ratelimitv1.GrantRequest, grantIDs []string) map[string]any {
	returns := []map[string]any{}
	for _, each := range request.Returns {
		of, spent := any("none"), []map[string]any{}
		if number := slices.Index(grantIDs, each.GrantId); number >= 0 {
			of = number + 1
		}
		for _, line := range each.Spent {
			spent = append(spent, map[string]any{
				"resource": line.Resource, "allowed": line.Allowed, "denied": line.Denied, "cost": line.Cost, "limit": line.Limit,
			})
		}
		returns = append(returns, map[string]any{"of": of, "unused": each.Unused, "spent": spent})
	}
	cost := uint64(1)
	if request.Cost != nil {
		cost = *request.Cost
	}
	return map[string]any{
		"grant_id": request.GrantId, "api_key": request.GetApiKey(), "key_id": request.GetKeyId(), "resource": request.Resource,
		"cost": cost, "wants": request.Wants, "returns": returns,
	}
}

// grants verifies the numbers of the client's grants, which may become so within some time.
func (e *expectation) grants(client *ratelimit.Client) {
	e.t.Helper()
	wanted, named := e.take("grants")
	if !named {
		return
	}
	var fields map[string]float64
	if err := json.Unmarshal(wanted, &fields); err != nil {
		e.t.Fatal(err)
	}
	got := grantFields(client.Grants())
	for ends := time.Now().Add(5 * time.Second); !contains(got, fields) && time.Now().Before(ends); {
		time.Sleep(5 * time.Millisecond)
		got = grantFields(client.Grants())
	}
	if !contains(got, fields) {
		e.failf("grants is %v, not %s", got, wanted)
	}
}

func contains(all, some map[string]float64) bool {
	for name, number := range some {
		if value, named := all[name]; !named || value != number {
			return false
		}
	}
	return true
}

func holdFields(hold *durationpb.Duration) any {
	if hold == nil {
		return nil
	}
	return hold.AsDuration().Milliseconds()
}

// logged verifies the warnings of this step.
func (e *expectation) logged(warnings []string) {
	e.t.Helper()
	e.field("logged", warnings)
}

func (e *expectation) failures(counted ratelimit.Failures, hasCallback bool, callbacks uint64, metrics *recordedMetrics) {
	e.t.Helper()
	if wanted, named := e.take("failures"); named {
		fields := map[string]uint64{"unsettled": 0}
		if err := json.Unmarshal(wanted, &fields); err != nil {
			e.t.Fatal(err)
		}
		got := map[string]uint64{"open": counted.Open, "closed": counted.Closed, "unsettled": counted.Unsettled}
		maps.DeleteFunc(got, func(name string, _ uint64) bool { _, named := fields[name]; return !named })
		if !reflect.DeepEqual(fields, got) {
			e.failf("failures is %v, not %s", got, wanted)
		}
	}
	decisions, measured := metrics.take()
	if measured != counted {
		e.failf("the metrics have %+v, and the client %+v", measured, counted)
	}
	if e.verifiesDecisions && decisions != e.decided {
		e.failf("the metrics have %d decisions of this step, not %d", decisions, e.decided)
	}
	if hasCallback && callbacks != counted.Open+counted.Closed+counted.Unsettled {
		e.failf("the callback was called %d times for %+v", callbacks, counted)
	}
}

func (e *expectation) took(duration time.Duration) {
	e.t.Helper()
	wanted, named := e.take("duration_ms")
	if !named {
		return
	}
	var bounds struct {
		AtLeast int64 `json:"min"`
		AtMost  int64 `json:"max"`
	}
	if err := json.Unmarshal(wanted, &bounds); err != nil {
		e.t.Fatal(err)
	}
	if took := duration.Milliseconds(); took < bounds.AtLeast || (bounds.AtMost > 0 && took > bounds.AtMost) {
		e.failf("the call took %v", duration)
	}
}

func (e *expectation) response(response *http.Response, body []byte) {
	e.t.Helper()
	wanted, _ := e.take("response")
	var want struct {
		Status  int                `json:"status"`
		Headers map[string]*string `json:"headers"`
		Problem json.RawMessage    `json:"problem"`
		Body    *string            `json:"body"`
	}
	if err := json.Unmarshal(wanted, &want); err != nil {
		e.t.Fatal(err)
	}
	if response.StatusCode != want.Status {
		e.failf("the status is %d, not %d", response.StatusCode, want.Status)
	}
	for name, value := range want.Headers {
		got := response.Header.Values(name)
		switch {
		case value == nil && len(got) > 0:
			e.failf("there is a header %s: %q", name, got)
		case value != nil && (len(got) != 1 || got[0] != *value):
			e.failf("the header %s is %q, not %q", name, got, *value)
		}
	}
	if want.Problem != nil {
		e.same("problem", want.Problem, json.RawMessage(body))
	}
	if want.Body != nil && string(body) != *want.Body {
		e.failf("the body is %q, not %q", body, *want.Body)
	}
}

// reasonValue is a reason as it is in the cases: its name, or its number if this version of the API has no name for it.
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

// codeName is the name of a code as it is in the cases.
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
