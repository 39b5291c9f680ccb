package ratelimit

import (
	"strconv"
	"strings"
	"time"
)

// HeaderStyle is which headers a caller gets.
type HeaderStyle string

// The header styles.
const (
	// HeaderStyleIETF is `RateLimit-Policy` and `RateLimit` with every limit: draft-ietf-httpapi-ratelimit-headers-11.
	HeaderStyleIETF HeaderStyle = "ietf"
	// HeaderStyleXRateLimit is `X-RateLimit-Limit`, `-Remaining` and `-Reset` of the binding limit. Reset is in seconds from
	// now.
	HeaderStyleXRateLimit HeaderStyle = "x-ratelimit"
	// HeaderStyleRateLimit is the same three without `X-`.
	HeaderStyleRateLimit HeaderStyle = "ratelimit"
)

// LimitHeaders is the headers for a decision: its limits in the given style, and `Retry-After` on a denial that ends after a
// wait. Seconds are rounded up. Limits in mode shadow are left out.
func LimitHeaders(decision Decision, style HeaderStyle) map[string]string {
	headers := map[string]string{}
	if style == HeaderStyleIETF {
		addAllLimits(headers, decision)
	} else {
		addBindingLimit(headers, decision, style)
	}
	if seconds, waits := retryAfterSeconds(decision); waits {
		headers["Retry-After"] = strconv.FormatInt(seconds, 10)
	}
	return headers
}

// retryAfterSeconds is the `Retry-After` of a denial, not before what the headers have for the binding limit.
func retryAfterSeconds(decision Decision) (seconds int64, waits bool) {
	if decision.Allowed || decision.RetryAfter == nil {
		return 0, false
	}
	seconds = wholeSeconds(*decision.RetryAfter)
	if limit := bindingLimit(decision); limit != nil && limit.WouldDeny {
		seconds = max(seconds, secondsToWait(limit))
	}
	return seconds, true
}

func addAllLimits(headers map[string]string, decision Decision) {
	var policy, state strings.Builder
	for i := range decision.Limits {
		limit := &decision.Limits[i]
		if limit.Shadow {
			continue
		}
		if policy.Len() > 0 {
			policy.WriteString(", ")
			state.WriteString(", ")
		}
		// A name has only a-z, 0-9, `_`, `-` and `.`: nothing to escape in a structured field.
		name := `"` + limit.Name + `"`
		policy.WriteString(name + ";q=" + strconv.FormatInt(limit.Limit, 10) +
			";w=" + strconv.FormatInt(max(1, wholeSeconds(limit.Window)), 10))
		state.WriteString(name + ";r=" + strconv.FormatInt(max(0, limit.Remaining), 10) +
			";t=" + strconv.FormatInt(secondsToWait(limit), 10))
	}
	if policy.Len() > 0 {
		headers["RateLimit-Policy"] = policy.String()
		headers["RateLimit"] = state.String()
	}
}

func addBindingLimit(headers map[string]string, decision Decision, style HeaderStyle) {
	limit := bindingLimit(decision)
	if limit == nil {
		return
	}
	prefix := "RateLimit-"
	if style == HeaderStyleXRateLimit {
		prefix = "X-RateLimit-"
	}
	headers[prefix+"Limit"] = strconv.FormatInt(limit.Limit, 10)
	headers[prefix+"Remaining"] = strconv.FormatInt(max(0, limit.Remaining), 10)
	headers[prefix+"Reset"] = strconv.FormatInt(secondsToWait(limit), 10)
}

func bindingLimit(decision Decision) *LimitResult {
	for i := range decision.Limits {
		if limit := &decision.Limits[i]; limit.Name == decision.Limit && !limit.Shadow {
			return limit
		}
	}
	return nil
}

// secondsToWait is until the limit no longer denies, or otherwise until it is back to its full amount.
func secondsToWait(limit *LimitResult) int64 {
	if limit.WouldDeny && limit.RetryAfter != nil {
		return wholeSeconds(*limit.RetryAfter)
	}
	return wholeSeconds(limit.ResetAfter)
}

func wholeSeconds(duration time.Duration) int64 {
	return int64((duration + time.Second - 1) / time.Second)
}
