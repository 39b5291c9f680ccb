package ratelimit

// Grants is what a client in ModeGranted has decided and asked for since it was created, for your metrics; or how much that
// has changed. The hit ratio is (Allowed + Denied) / (Allowed + Denied + Waited).
type Grants struct {
	// Allowed is calls that were allowed by units that the client had, without waiting.
	Allowed uint64
	// Denied is calls that were denied without waiting, because the service had denied units before.
	Denied uint64
	// Waited is calls that waited for units, or were checked one by one.
	Waited uint64
	// Requests is requests for units, and those that only return some. The checks of calls one by one are not in it.
	Requests uint64
	// Granted is units that the service has granted. A unit is one call.
	Granted uint64
	// Returned is units that were not spent, and that the client has returned before they expired.
	Returned uint64
	// Expired is units that expired before they were spent. The client returns them, too, but the service may have counted them.
	Expired uint64
	// Held is units that the client has now.
	Held int64
}

// plus is the sum of both.
func (g Grants) plus(other Grants) Grants {
	return Grants{
		Allowed:  g.Allowed + other.Allowed,
		Denied:   g.Denied + other.Denied,
		Waited:   g.Waited + other.Waited,
		Requests: g.Requests + other.Requests,
		Granted:  g.Granted + other.Granted,
		Returned: g.Returned + other.Returned,
		Expired:  g.Expired + other.Expired,
		Held:     g.Held + other.Held,
	}
}

// since is how much each number has changed since it was as before. All but Held only grow.
func (g Grants) since(before Grants) Grants {
	return Grants{
		Allowed:  g.Allowed - before.Allowed,
		Denied:   g.Denied - before.Denied,
		Waited:   g.Waited - before.Waited,
		Requests: g.Requests - before.Requests,
		Granted:  g.Granted - before.Granted,
		Returned: g.Returned - before.Returned,
		Expired:  g.Expired - before.Expired,
		Held:     g.Held - before.Held,
	}
}
