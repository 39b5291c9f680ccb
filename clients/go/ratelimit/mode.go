package ratelimit

// Mode is who decides calls of Client.Check.
type Mode string

// The modes.
const (
	// ModeChecked has the service decide each call.
	ModeChecked Mode = "checked"
	// ModeGranted has the client decide by units of calls that the service has granted ahead, and charged already. Needs a
	// token of role gateway.
	ModeGranted Mode = "granted"
)

// NearLimit is when a client in ModeGranted asks again once a limit has less left than was wanted.
type NearLimit string

// What a client does near a limit.
const (
	// NearLimitExact asks again as soon as a call would fit: up to one request for each call that is allowed.
	NearLimitExact NearLimit = "exact"
	// NearLimitPaced asks again after half of the time for which units are asked for, at the earliest, and denies calls until
	// then: few requests, some calls are denied that would have fitted.
	NearLimitPaced NearLimit = "paced"
)
