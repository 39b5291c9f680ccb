package ratelimit

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// maxKeys is the keys that a client keeps, in some 2 KiB each. Calls with others are checked one by one.
	maxKeys = 20_000
	// keyChains is the chains of keys. A power of two.
	keyChains = 32_768
	// sweptChains is the chains in which room is looked for at once: those of some 40 keys when there are as many as are kept.
	sweptChains = 64
)

// keyIndex finds keys without a lock: each chain is a linked list, to which keys are added in front, and from which they are
// removed by whoever holds the mutex. A key that was removed still leads to those after it.
type keyIndex struct {
	seed   maphash.Seed
	chains []atomic.Pointer[grantKey]

	mutex sync.Mutex
	// most is the keys that are kept.
	most  int
	count int
	// swept is the chain in which room is looked for next.
	swept int
	// gone is the numbers of keys that were removed.
	gone Grants
}

func newKeyIndex() *keyIndex {
	return &keyIndex{seed: maphash.MakeSeed(), chains: make([]atomic.Pointer[grantKey], keyChains), most: maxKeys}
}

// find is the key of a call. Nil if there is none.
func (x *keyIndex) find(request *CheckRequest) *grantKey {
	credential, byID := request.APIKey, false
	if request.KeyID != "" {
		credential, byID = request.KeyID, true
	}
	hash := maphash.String(x.seed, credential)
	for key := x.chains[hash%keyChains].Load(); key != nil; key = key.next.Load() {
		if key.hash == hash && key.byID == byID && key.credential == credential {
			return key
		}
	}
	return nil
}

// add is the key of a call, a new one unless there is one by now. Nil if there is no room.
func (x *keyIndex) add(request *CheckRequest, book *grantBook) *grantKey {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	if key := x.find(request); key != nil {
		return key
	}
	if x.count >= x.most && !x.makeRoom() {
		return nil
	}
	key := newGrantKey(request, maphash.String(x.seed, credentialOf(request)), book)
	chain := &x.chains[key.hash%keyChains]
	key.next.Store(chain.Load())
	chain.Store(key)
	x.count++
	return key
}

func credentialOf(request *CheckRequest) string {
	if request.KeyID != "" {
		return request.KeyID
	}
	return request.APIKey
}

// makeRoom removes some keys of which nothing is held or to be reported. It returns whether there were any.
func (x *keyIndex) makeRoom() bool {
	found := false
	for range sweptChains {
		x.swept = (x.swept + 1) % keyChains
		for key := x.chains[x.swept].Load(); key != nil; key = key.next.Load() {
			if key.mutex.TryLock() {
				if key.isUnused() {
					x.unlink(key)
					found = true
				}
				key.mutex.Unlock()
			}
		}
	}
	return found
}

// forget removes a key, unless something of it is held.
func (x *keyIndex) forget(key *grantKey) {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	key.mutex.Lock()
	defer key.mutex.Unlock()
	if key.isUnused() {
		x.unlink(key)
	}
}

// unlink is for callers that hold the mutexes of the index and of the key.
func (x *keyIndex) unlink(key *grantKey) {
	place := &x.chains[key.hash%keyChains]
	for one := place.Load(); one != key; one = place.Load() {
		place = &one.next
	}
	place.Store(key.next.Load())
	x.gone = x.gone.plus(key.grants())
	x.count--
	key.leave()
}

// all calls visit for each key, with its mutex held.
func (x *keyIndex) all(visit func(*grantKey)) {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	for i := range x.chains {
		for key := x.chains[i].Load(); key != nil; key = key.next.Load() {
			key.mutex.Lock()
			visit(key)
			key.mutex.Unlock()
		}
	}
}

// grants is the numbers of all keys.
func (x *keyIndex) grants() Grants {
	var all Grants
	x.all(func(key *grantKey) { all = all.plus(key.grants()) })
	x.mutex.Lock()
	defer x.mutex.Unlock()
	return all.plus(x.gone)
}

// keyNames finds keys by their public ids, of which one has as many keys as it is presented in ways.
type keyNames struct {
	mutex sync.Mutex
	keys  map[string][]*grantKey
}

// add has a key be found by its public id, once it is known. It is for callers that hold the mutex of the key.
func (n *keyNames) add(key *grantKey, keyID string) {
	if keyID == "" || key.keyID != "" {
		return
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	key.keyID = keyID
	if n.keys == nil {
		n.keys = map[string][]*grantKey{}
	}
	n.keys[keyID] = append(n.keys[keyID], key)
}

// remove is for callers that hold the mutex of the key.
func (n *keyNames) remove(key *grantKey) {
	if key.keyID == "" {
		return
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	left := slices.DeleteFunc(n.keys[key.keyID], func(one *grantKey) bool { return one == key })
	if len(left) == 0 {
		delete(n.keys, key.keyID)
	} else {
		n.keys[key.keyID] = left
	}
}

// of is the keys of a public id.
func (n *keyNames) of(keyID string) []*grantKey {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return slices.Clone(n.keys[keyID])
}
