package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// The cases as they are in the files: see README.md beside them.

type contractCase struct {
	Name    string         `json:"name"`
	Options map[string]any `json:"options"`
	Steps   []step         `json:"steps"`
	// AcceptsAfterMS is absent, null, or a number.
	AcceptsAfterMS json.RawMessage `json:"accepts_after_ms"`
	// Stream is whether the server has StreamGrant, too.
	Stream bool `json:"stream"`
}

// targetCase is one of targets.json.
type targetCase struct {
	Name    string  `json:"name"`
	Target  string  `json:"target"`
	Problem *string `json:"problem"`
}

// tokenCase is one of tokens.json.
type tokenCase struct {
	Name    string  `json:"name"`
	Token   string  `json:"token"`
	Problem *string `json:"problem"`
}

type step struct {
	AdvanceMS *int64         `json:"advance_ms"`
	Close     bool           `json:"close"`
	Call      *call          `json:"call"`
	Settle    *settle        `json:"settle"`
	Extend    *extend        `json:"extend"`
	Scope     *scope         `json:"scope"`
	Request   *httpRequest   `json:"request"`
	Ready     *ready         `json:"ready"`
	Wait      *struct{}      `json:"wait"`
	Withdraw  []string       `json:"withdraw"`
	Server    []scriptedItem `json:"server"`
	Expect    expected       `json:"expect"`
}

type call struct {
	APIKey      string  `json:"api_key"`
	KeyID       string  `json:"key_id"`
	Resource    string  `json:"resource"`
	Cost        *uint64 `json:"cost"`
	Peek        bool    `json:"peek"`
	Charge      bool    `json:"charge"`
	RequestID   string  `json:"request_id"`
	InvalidUTF8 string  `json:"invalid_utf8"`
	Oversized   string  `json:"oversized"`
	Reserve     bool    `json:"reserve"`
	Estimate    uint64  `json:"estimate"`
	HoldMS      int64   `json:"hold_ms"`
	abandoning
}

// abandoning is the caller's own deadline, and when it cancels. 0 is neither.
type abandoning struct {
	DeadlineMS    int64 `json:"deadline_ms"`
	CancelAfterMS int64 `json:"cancel_after_ms"`
}

type settle struct {
	Actual uint64 `json:"actual"`
	abandoning
}

type extend struct {
	HoldMS int64 `json:"hold_ms"`
}

type ready struct {
	TimeoutMS int64 `json:"timeout_ms"`
}

type scope struct {
	call
	OnError       ratelimit.OnError `json:"on_error"`
	Extend        *bool             `json:"extend"`
	Settle        *uint64           `json:"settle"`
	UntilAttempts int               `json:"until_attempts"`
	WaitMS        int64             `json:"wait_ms"`
	Error         bool              `json:"error"`
}

type httpRequest struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
}

type scriptedItem struct {
	Method   string          `json:"method"`
	Response json.RawMessage `json:"response"`
	Status   string          `json:"status"`
	Message  string          `json:"message"`
	Reason   string          `json:"reason"`
	Field    string          `json:"field"`
	Hang     bool            `json:"hang"`
	Optional bool            `json:"optional"`
}

// expected is raw because a field that is absent is not verified, and one that is null is.
type expected map[string]json.RawMessage

func readCases(t *testing.T) map[string][]contractCase {
	t.Helper()
	paths, err := filepath.Glob("../../conformance/*.json")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]contractCase{}
	for _, path := range paths {
		name := filepath.Base(path)
		if name == "service_config.json" || name == "targets.json" || name == "tokens.json" {
			continue
		}
		files[name] = readFile[contractCase](t, name)
	}
	if len(files) < 10 {
		t.Fatalf("found %d files of cases in ../../conformance; there are at least 10", len(files))
	}
	return files
}

func readFile[Case any](t *testing.T, name string) (cases []Case) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../conformance", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return cases
}

// request is the argument of Check, Peek or Charge.
func (c *call) request() (ratelimit.CheckRequest, error) {
	request := ratelimit.CheckRequest{APIKey: c.APIKey, KeyID: c.KeyID, Resource: c.Resource, RequestID: c.RequestID}
	texts := map[string]*string{
		"api_key": &request.APIKey, "key_id": &request.KeyID, "resource": &request.Resource, "request_id": &request.RequestID,
	}
	for generated, field := range map[string]string{"\xff": c.InvalidUTF8, strings.Repeat("x", 65537): c.Oversized} {
		if field == "" {
			continue
		}
		text, known := texts[field]
		if !known {
			return request, fmt.Errorf("the case has %q, which is not a text of a call", field)
		}
		*text = generated
	}
	return request, nil
}

// reserve is the argument of Reserve.
func (c *call) reserve() (ratelimit.ReserveRequest, error) {
	request, err := c.request()
	return ratelimit.ReserveRequest{
		APIKey:    request.APIKey,
		KeyID:     request.KeyID,
		Resource:  request.Resource,
		Estimate:  c.Estimate,
		Hold:      time.Duration(c.HoldMS) * time.Millisecond,
		RequestID: request.RequestID,
	}, err
}

// context is the context of the call.
func (c *abandoning) context(parent context.Context) (context.Context, context.CancelFunc) {
	if c.DeadlineMS > 0 {
		return context.WithTimeout(parent, time.Duration(c.DeadlineMS)*time.Millisecond)
	}
	ctx, cancel := context.WithCancel(parent)
	if c.CancelAfterMS > 0 {
		time.AfterFunc(time.Duration(c.CancelAfterMS)*time.Millisecond, cancel)
	}
	return ctx, cancel
}

func (i scriptedItem) script() (scripted.Response, error) {
	response, err := i.response()
	if i.Method != "" {
		response = response.To(i.Method)
	}
	return response, err
}

func (i scriptedItem) response() (response scripted.Response, err error) {
	switch {
	case i.Hang:
		return scripted.Hang(), nil
	case i.Response != nil:
		messages := map[string]proto.Message{
			"":            &ratelimitv1.CheckLimitResponse{},
			"SettleLimit": &ratelimitv1.SettleLimitResponse{},
			"ExtendHold":  &ratelimitv1.ExtendHoldResponse{},
			"Grant":       &ratelimitv1.GrantResponse{},
		}
		message, known := messages[i.Method]
		if !known {
			return response, fmt.Errorf("the case has the method %q", i.Method)
		}
		return scripted.Respond(message), protojson.Unmarshal(i.Response, message)
	}
	code, err := codeOf(i.Status)
	if err != nil {
		return response, err
	}
	var details []protoadapt.MessageV1
	if i.Reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: i.Reason, Domain: "ratelimit.v1"})
	}
	if i.Field != "" {
		violation := &errdetails.BadRequest_FieldViolation{Field: i.Field, Description: i.Message}
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}})
	}
	failure, err := status.New(code, i.Message).WithDetails(details...)
	if err != nil {
		return response, err
	}
	return scripted.Fail(failure), nil
}

// codeOf parses the name of a code as it is in the cases.
func codeOf(name string) (codes.Code, error) {
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil {
		return code, fmt.Errorf("there is no code %q: %w", name, err)
	}
	return code, nil
}
