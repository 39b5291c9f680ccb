package ratelimit

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

const (
	// maxBatch is the requests that one message has at most, and maxBatchBytes about how large it is.
	maxBatch      = 64
	maxBatchBytes = 48 * 1024
	// linger is how long a request that no call waits for is held back at most, so that one message has more of them: a small part of
	// the time for which it asks ahead. urgentLinger is that of one that a call waits for, while there are messages that the service has
	// not responded to: it takes those of a stream one after the other.
	linger       = 4 * time.Millisecond
	urgentLinger = time.Millisecond
	// reopenAfter is when a stream that broke is opened again, and withoutStream if the service has none.
	reopenAfter   = time.Second
	withoutStream = time.Minute
	// maxLate is the messages in a row that a stream may not respond to by the deadline.
	maxLate = 3
)

// grantStream is the requests of some keys, in the order in which they are sent over a stream. That is opened when there is
// something to send, and the connection is up.
type grantStream struct {
	sender     *grantSender
	connection *connection
	// wake has run examine the outbox.
	wake chan struct{}

	mutex  sync.Mutex
	outbox []*inFlight
	bytes  int
	// dueAt is when the outbox is to be sent at the latest. Unknown while it is empty.
	dueAt time.Time
	// isUrgent is whether a call waits for something in it.
	isUrgent bool
	// open is nil if there is no stream.
	open *openStream
	// closedUntil is until when none is opened.
	closedUntil time.Time
	// hasEnded is whether nothing is sent any more.
	hasEnded bool
}

// openStream is a stream, and the messages that it has not responded to, those first that were sent first.
type openStream struct {
	stream  grpc.BidiStreamingClient[ratelimitv1.StreamGrantRequest, ratelimitv1.StreamGrantResponse]
	cancel  context.CancelFunc
	pending []*grantBatch
	// late is the messages since the last response that it has not responded to by the deadline.
	late int
}

// grantBatch is the requests of one message, until the deadline.
type grantBatch struct {
	allInFlight []*inFlight
	timer       *time.Timer
}

func (g *grantStream) add(one *inFlight) {
	one.bytes = proto.Size(one.request)
	g.mutex.Lock()
	if g.hasEnded {
		g.mutex.Unlock()
		go g.sender.completed(one, nil, context.Canceled)
		return
	}
	due := time.Now().Add(one.linger())
	isFirst := len(g.outbox) == 0 || due.Before(g.dueAt)
	if isFirst {
		g.dueAt = due
	}
	g.outbox = append(g.outbox, one)
	g.bytes += one.bytes
	g.isUrgent = g.isUrgent || one.isUrgent
	wakes := isFirst || g.isDue()
	g.mutex.Unlock()
	if wakes {
		g.awake()
	}
}

// awake has run examine the outbox.
func (g *grantStream) awake() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// linger is how long a request may be held back.
func (f *inFlight) linger() time.Duration {
	switch {
	case f.isUrgent:
		return urgentLinger
	case f.pool == nil:
		return linger
	}
	return min(f.pool.horizon/64, linger)
}

// isDue is whether the outbox is to be sent without waiting for more.
func (g *grantStream) isDue() bool {
	return g.isUrgent && (g.open == nil || len(g.open.pending) == 0) || len(g.outbox) >= maxBatch || g.bytes >= maxBatchBytes
}

// run sends what is due, until the sender is closed.
func (g *grantStream) run() {
	defer g.sender.running.Done()
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for {
		for {
			batch, wait := g.next()
			if batch == nil {
				timer.Reset(wait)
				break
			}
			g.send(batch)
		}
		select {
		case <-g.sender.base.Done():
			g.mutex.Lock()
			g.hasEnded = true
			left := g.outbox
			g.outbox = nil
			g.mutex.Unlock()
			g.sender.alone(left)
			return
		case <-g.wake:
		case <-timer.C:
		}
	}
}

// next is the requests of the next message. Nil if there are none, or if they can wait for others.
func (g *grantStream) next() (batch []*inFlight, wait time.Duration) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if len(g.outbox) == 0 {
		return nil, time.Hour
	}
	if wait = time.Until(g.dueAt); wait > 0 && !g.isDue() {
		return nil, wait
	}
	bytes := 0
	for _, one := range g.outbox {
		bytes += one.bytes
		if len(batch) == maxBatch || len(batch) > 0 && bytes > maxBatchBytes {
			break
		}
		batch = append(batch, one)
	}
	g.outbox = slices.Clone(g.outbox[len(batch):])
	g.bytes, g.isUrgent, g.dueAt = 0, false, time.Time{} // what is left is sent at once
	return batch, 0
}

// send sends a message over the stream, or its requests by themselves if there is none.
func (g *grantStream) send(allInFlight []*inFlight) {
	open, message := g.opened(), &ratelimitv1.StreamGrantRequest{}
	if open == nil {
		g.sender.alone(allInFlight)
		return
	}
	for _, one := range allInFlight {
		message.Requests = append(message.Requests, one.request)
	}
	batch := &grantBatch{allInFlight: allInFlight}
	g.mutex.Lock()
	if g.open != open {
		g.mutex.Unlock()
		g.sender.alone(allInFlight)
		return
	}
	open.pending = append(open.pending, batch)
	batch.timer = time.AfterFunc(g.sender.client.options.deadline, func() { g.late(open, batch) })
	g.mutex.Unlock()
	_ = open.stream.Send(message) // its error is that of the receiver, too
}

// opened is the stream, a new one if there was none. Nil if it cannot be opened now.
func (g *grantStream) opened() *openStream {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	if g.open != nil || time.Now().Before(g.closedUntil) || g.connection.GetState() != connectivity.Ready {
		return g.open
	}
	ctx, cancel := context.WithCancel(g.sender.client.authorized(g.sender.base))
	stream, err := g.connection.stub.StreamGrant(ctx)
	if err != nil {
		cancel()
		g.closedUntil = time.Now().Add(reopenAfter)
		return nil
	}
	g.open = &openStream{stream: stream, cancel: cancel}
	g.sender.running.Add(1)
	go g.receive(g.open)
	return g.open
}

// receive takes what comes over a stream, until it breaks.
func (g *grantStream) receive(open *openStream) {
	defer g.sender.running.Done()
	defer open.cancel()
	for {
		response, err := open.stream.Recv()
		if err != nil {
			g.broken(open, err)
			return
		}
		if len(response.Results) > 0 && !g.results(open, response.Results) {
			g.broken(open, nil)
			return
		}
		for _, withdrawal := range response.Withdrawals {
			g.sender.withdrawn(withdrawal.KeyId)
		}
	}
}

// results takes the results of the message that was sent first of those that wait. It returns false if they are of no message.
func (g *grantStream) results(open *openStream, results []*ratelimitv1.GrantResult) bool {
	g.mutex.Lock()
	open.late = 0
	if len(open.pending) == 0 || len(open.pending[0].allInFlight) != len(results) {
		g.mutex.Unlock()
		return false
	}
	first := open.pending[0]
	open.pending = open.pending[1:]
	wakes := g.isUrgent && len(open.pending) == 0
	g.mutex.Unlock()
	if wakes {
		g.awake()
	}
	first.timer.Stop()
	for i, one := range first.allInFlight {
		g.sender.take(one, results[i])
	}
	return true
}

// late has the requests of a message fail that were not responded to by the deadline. A stream that does not respond is given
// up.
func (g *grantStream) late(open *openStream, batch *grantBatch) {
	g.mutex.Lock()
	if open.late++; open.late == maxLate {
		open.cancel()
	}
	g.mutex.Unlock()
	for _, one := range batch.allInFlight {
		g.sender.completed(one, nil, &Error{Code: codes.DeadlineExceeded, Message: "no response within the deadline"})
	}
}

// broken has the requests that a stream has not responded to sent by themselves.
func (g *grantStream) broken(open *openStream, err error) {
	g.mutex.Lock()
	g.open = nil
	pause := reopenAfter
	if err != nil && errorOf(err).Code == codes.Unimplemented {
		pause = withoutStream
	}
	g.closedUntil = time.Now().Add(pause)
	pending := open.pending
	open.pending = nil
	g.mutex.Unlock()
	for _, batch := range pending {
		if batch.timer.Stop() {
			g.sender.alone(batch.allInFlight)
		}
	}
}
