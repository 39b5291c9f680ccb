package ratelimit

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// cacheKey is a digest of the key, the resource and the cost of a call. The client keeps no secret longer than its call.
type cacheKey [sha256.Size]byte

type cacheEntry struct {
	key      cacheKey
	decision Decision
	added    time.Time
	expires  time.Time
}

// denialCache has at most size denials, each until its RetryAfter has passed, or maxAge if that is sooner.
type denialCache struct {
	size   int
	maxAge time.Duration
	clock  func() time.Time

	// count lets a lookup in the empty cache skip the digest and the lock.
	count atomic.Int64
	mutex sync.Mutex
	order *list.List // of *cacheEntry, the oldest first
	byKey map[cacheKey]*list.Element
}

func newDenialCache(size int, maxAge time.Duration, clock func() time.Time) *denialCache {
	return &denialCache{size: size, maxAge: maxAge, clock: clock, order: list.New(), byKey: map[cacheKey]*list.Element{}}
}

// get is the cached denial of such a call, its waits shortened by its age.
func (d *denialCache) get(request *CheckRequest) (Decision, bool) {
	if d.count.Load() == 0 {
		return Decision{}, false
	}
	key := cacheKeyOf(request)
	now := d.clock()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	element, found := d.byKey[key]
	if !found {
		return Decision{}, false
	}
	entry := element.Value.(*cacheEntry)
	if !now.Before(entry.expires) {
		d.remove(element)
		return Decision{}, false
	}
	decision := entry.decision.after(now.Sub(entry.added))
	decision.Origin = OriginCache
	return decision, true
}

// put caches a decision if it is a denial that ends after a wait.
func (d *denialCache) put(request *CheckRequest, decision Decision) {
	if d.size <= 0 || decision.Allowed || decision.Reason != ReasonOverLimit || decision.RetryAfter == nil {
		return
	}
	added := d.clock()
	entry := &cacheEntry{
		key:      cacheKeyOf(request),
		decision: decision,
		added:    added,
		expires:  added.Add(min(*decision.RetryAfter, d.maxAge)),
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if element, found := d.byKey[entry.key]; found {
		d.remove(element)
	}
	for d.order.Len() >= d.size {
		d.remove(d.order.Front())
	}
	d.byKey[entry.key] = d.order.PushBack(entry)
	d.count.Add(1)
}

func (d *denialCache) remove(element *list.Element) {
	d.order.Remove(element)
	delete(d.byKey, element.Value.(*cacheEntry).key)
	d.count.Add(-1)
}

// cacheKeyOf hashes each part with its length before it, so that no two calls share a key.
func cacheKeyOf(request *CheckRequest) cacheKey {
	var buffer [512]byte
	text := buffer[:0]
	for _, part := range [...]string{request.APIKey, request.KeyID, request.Resource} {
		text = binary.AppendUvarint(text, uint64(len(part)))
		text = append(text, part...)
	}
	return sha256.Sum256(binary.AppendUvarint(text, request.Cost))
}
