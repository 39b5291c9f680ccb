package ratelimit

import (
	"sync/atomic"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

const (
	// maxTokens is what one call may take, and what may be reported of one resource at once.
	maxTokens = 9_007_199_254
	// maxCalls is the calls of one resource that may be reported at once.
	maxCalls = 1<<32 - 1
	// fewLines is how many lines are compared one by one, which takes less time than a map.
	fewLines = 4
)

// line is the calls with a key of one resource and cost, and which units they take.
type line struct {
	resource string
	cost     uint64
	pool     atomic.Pointer[pool]
	// denials are those by the limit that denies calls now.
	denials atomic.Pointer[denialCount]
	// allowed is the calls that were allowed so far.
	allowed *callCount
	// reported is those of them that were reported so far. Guarded by the mutex of the key.
	reported uint64
}

// callCount has a cache line of its own: it changes with each call, and what is read by each call does not.
type callCount struct {
	_ [64]byte
	atomic.Uint64
	_ [56]byte
}

// denialCount is the calls that one limit has denied.
type denialCount struct {
	limit string
	calls atomic.Uint64
}

// countDenial counts a denied call without the mutex, if the last one was denied by the same limit. Otherwise it returns false.
func (l *line) countDenial(limit string) bool {
	denials := l.denials.Load()
	if denials == nil || denials.limit != limit {
		return false
	}
	denials.calls.Add(1)
	return true
}

// report appends what was decided since the last report. limit is that which denies calls from now on, if changed.
func (l *line) report(spent []*ratelimitv1.GrantSpent) []*ratelimitv1.GrantSpent {
	allowed := l.allowed.Load() - l.reported
	l.reported += allowed
	for most := min(maxCalls, maxTokens/l.cost); allowed > 0; {
		calls := min(allowed, most)
		allowed -= calls
		spent = append(spent, &ratelimitv1.GrantSpent{Resource: l.resource, Allowed: calls, Cost: calls * l.cost})
	}
	return l.reportDenials(spent)
}

func (l *line) reportDenials(spent []*ratelimitv1.GrantSpent) []*ratelimitv1.GrantSpent {
	denials := l.denials.Load()
	if denials == nil {
		return spent
	}
	if calls := denials.calls.Swap(0); calls > 0 {
		spent = append(spent, &ratelimitv1.GrantSpent{
			Resource: l.resource, Denied: min(calls, maxCalls), Limit: denials.limit,
		})
	}
	return spent
}

// lineSet is the lines of a key. It does not change: whoever adds one makes another set.
type lineSet struct {
	few  []*line
	many map[lineName]*line
}

type lineName struct {
	resource string
	cost     uint64
}

var noLines = &lineSet{}

func (s *lineSet) find(resource string, cost uint64) *line {
	for _, one := range s.few {
		if one.cost == cost && one.resource == resource {
			return one
		}
	}
	return s.many[lineName{resource, cost}]
}

func (s *lineSet) size() int { return len(s.few) + len(s.many) }

// all calls visit for each line.
func (s *lineSet) all(visit func(*line)) {
	for _, one := range s.few {
		visit(one)
	}
	for _, one := range s.many {
		visit(one)
	}
}

// with is the set with one more line.
func (s *lineSet) with(more *line) *lineSet {
	if s.many == nil && len(s.few) < fewLines {
		return &lineSet{few: append(s.few[:len(s.few):len(s.few)], more)}
	}
	many := make(map[lineName]*line, s.size()+1)
	add := func(one *line) { many[lineName{one.resource, one.cost}] = one }
	s.all(add)
	add(more)
	return &lineSet{many: many}
}
