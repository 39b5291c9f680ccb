package ratelimit

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// denialKey is a digest of whose call it is, of what, at which cost. No secret is kept longer than its call.
type denialKey [sha256.Size]byte

// denial is a remembered answer.
type denial struct {
	key      denialKey
	decision Decision
	came     time.Time
	ends     time.Time
}

// denials remembers denials until a wait of theirs has passed. When it is full, the one put in first makes room.
type denials struct {
	size    int
	longest time.Duration
	now     func() time.Time

	// count lets a lookup pass without the digest and the lock while nothing is remembered.
	count atomic.Int64
	mutex sync.Mutex
	order *list.List // of *denial, the one put in first at the front
	byKey map[denialKey]*list.Element
}

func newDenials(size int, longest time.Duration, now func() time.Time) *denials {
	return &denials{size: size, longest: longest, now: now, order: list.New(), byKey: map[denialKey]*list.Element{}}
}

// recall is what is remembered of such a call, with its waits as they stand now.
func (d *denials) recall(request *Request, cost uint32) (Decision, bool) {
	if d.count.Load() == 0 {
		return Decision{}, false
	}
	key := keyOf(request, cost)
	now := d.now()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	element, found := d.byKey[key]
	if !found {
		return Decision{}, false
	}
	remembered := element.Value.(*denial)
	if !now.Before(remembered.ends) {
		d.forget(element)
		return Decision{}, false
	}
	decision := remembered.decision.after(now.Sub(remembered.came))
	decision.Origin = FromCache
	return decision, true
}

// remember keeps a decision if it is a denial that a wait will end.
func (d *denials) remember(request *Request, cost uint32, decision Decision) {
	if d.size <= 0 || decision.Allowed || decision.Reason != OverLimit || decision.RetryAfter == nil {
		return
	}
	came := d.now()
	remembered := &denial{
		key:      keyOf(request, cost),
		decision: decision,
		came:     came,
		ends:     came.Add(min(*decision.RetryAfter, d.longest)),
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if element, found := d.byKey[remembered.key]; found {
		d.forget(element)
	}
	for d.order.Len() >= d.size {
		d.forget(d.order.Front())
	}
	d.byKey[remembered.key] = d.order.PushBack(remembered)
	d.count.Add(1)
}

func (d *denials) forget(element *list.Element) {
	d.order.Remove(element)
	delete(d.byKey, element.Value.(*denial).key)
	d.count.Add(-1)
}

// keyOf writes each part with its length before it, so that no two calls share a key.
func keyOf(request *Request, cost uint32) denialKey {
	var buffer [512]byte
	text := buffer[:0]
	for _, part := range [...]string{request.APIKey, request.KeyID, request.Resource} {
		text = binary.AppendUvarint(text, uint64(len(part)))
		text = append(text, part...)
	}
	return sha256.Sum256(binary.AppendUvarint(text, uint64(cost)))
}
