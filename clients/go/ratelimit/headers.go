package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Style is a way of telling limits in headers.
type Style string

// The styles.
const (
	// IETF is `RateLimit-Policy` and `RateLimit` with every limit (draft-ietf-httpapi-ratelimit-headers-11).
	IETF Style = "ietf"
	// XRateLimit is `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit. Reset counts seconds from now.
	XRateLimit Style = "x-ratelimit"
	// Trio is the same three without `X-`.
	Trio Style = "ratelimit"
)

// Header is one header or metadata entry.
type Header struct {
	Name, Value string
}

// Headers is what to tell the caller beside the answer, allowed or denied: the limits in the given style, and
// `Retry-After` on a denial that a wait will end, and `WWW-Authenticate` on one for a key that is not good. Limits in mode shadow are never told. Seconds are rounded up.
func (d Decision) Headers(style Style) []Header {
	var headers []Header
	if style == IETF {
		headers = d.everyLimit()
	} else {
		headers = d.bindingLimit(style)
	}
	if seconds, waits := d.retryAfterSeconds(); waits {
		headers = append(headers, Header{"Retry-After", strconv.FormatInt(seconds, 10)})
	}
	if refusal, refused := d.Refusal(); refused && refusal.HTTPStatus == http.StatusUnauthorized {
		headers = append(headers, Header{"WWW-Authenticate", "ApiKey"})
	}
	return headers
}

func (d Decision) everyLimit() []Header {
	var policy, state strings.Builder
	for i := range d.Limits {
		limit := &d.Limits[i]
		if limit.Shadow {
			continue
		}
		if policy.Len() > 0 {
			policy.WriteString(", ")
			state.WriteString(", ")
		}
		// A name is of a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured string.
		name := `"` + limit.Name + `"`
		policy.WriteString(name + ";q=" + strconv.FormatInt(limit.Limit, 10) +
			";w=" + strconv.FormatInt(max(1, wholeSeconds(limit.Window)), 10))
		state.WriteString(name + ";r=" + strconv.FormatInt(limit.Remaining, 10) +
			";t=" + strconv.FormatInt(limit.secondsToWait(), 10))
	}
	if policy.Len() == 0 {
		return nil
	}
	return []Header{{"RateLimit-Policy", policy.String()}, {"RateLimit", state.String()}}
}

func (d Decision) bindingLimit(style Style) []Header {
	limit := d.binding()
	if limit == nil {
		return nil
	}
	prefix := "RateLimit-"
	if style == XRateLimit {
		prefix = "X-RateLimit-"
	}
	return []Header{
		{prefix + "Limit", strconv.FormatInt(limit.Limit, 10)},
		{prefix + "Remaining", strconv.FormatInt(limit.Remaining, 10)},
		{prefix + "Reset", strconv.FormatInt(limit.secondsToWait(), 10)},
	}
}

// binding is the limit that the decision names. Nil when none was weighed, or it is not listed.
func (d Decision) binding() *WeighedLimit {
	for i := range d.Limits {
		if limit := &d.Limits[i]; limit.Name == d.Limit && !limit.Shadow {
			return limit
		}
	}
	return nil
}

// retryAfterSeconds is never earlier than what the headers say of the limit that denies.
func (d Decision) retryAfterSeconds() (seconds int64, waits bool) {
	if d.Allowed || d.RetryAfter == nil {
		return 0, false
	}
	seconds = wholeSeconds(*d.RetryAfter)
	if limit := d.binding(); limit != nil && limit.WouldDeny {
		seconds = max(seconds, limit.secondsToWait())
	}
	return seconds, true
}

// secondsToWait is until the limit no longer denies, or else until it is untouched.
func (l *WeighedLimit) secondsToWait() int64 {
	if l.WouldDeny && l.RetryAfter != nil {
		return wholeSeconds(*l.RetryAfter)
	}
	return wholeSeconds(l.ResetAfter)
}

func wholeSeconds(duration time.Duration) int64 {
	return int64((duration + time.Second - 1) / time.Second)
}
