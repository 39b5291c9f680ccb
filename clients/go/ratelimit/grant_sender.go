package ratelimit

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"

	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

// grantSender sends requests over streams, one for each connection, while the service has them, and otherwise one by one. What a
// stream does not respond to before it breaks is sent again by itself: it is the same grant.
type grantSender struct {
	client *Client
	// completed is called with what becomes of a request, a response or an error, and never in the goroutine of send.
	completed func(*inFlight, *ratelimitv1.GrantResponse, error)
	// withdrawn is called with a key of which nothing more may be spent.
	withdrawn func(keyID string)

	streams []*grantStream
	running sync.WaitGroup
	// base is the context of all that is sent.
	base context.Context
	stop context.CancelFunc
}

// newGrantSender is a sender with a goroutine for each connection, until close.
func newGrantSender(
	client *Client, completed func(*inFlight, *ratelimitv1.GrantResponse, error), withdrawn func(keyID string),
) *grantSender {
	sender := &grantSender{client: client, completed: completed, withdrawn: withdrawn}
	sender.base, sender.stop = context.WithCancel(context.Background())
	for _, connection := range client.connections.all {
		stream := &grantStream{sender: sender, connection: connection, wake: make(chan struct{}, 1)}
		sender.streams = append(sender.streams, stream)
		sender.running.Add(1)
		go stream.run()
	}
	return sender
}

// send sends a request. A key has all of them sent over one stream, by which its units are withdrawn, too.
func (s *grantSender) send(inFlight *inFlight) {
	s.streams[inFlight.key.hash>>32%uint64(len(s.streams))].add(inFlight)
}

// close ends all that is under way, and returns once it has ended. Nothing may be sent any more.
func (s *grantSender) close() {
	s.stop()
	s.running.Wait()
}

// alone sends requests by themselves, unless the sender is closed. It is called in a goroutine that close waits for.
func (s *grantSender) alone(allInFlight []*inFlight) {
	for _, inFlight := range allInFlight {
		if err := s.base.Err(); err != nil {
			s.completed(inFlight, nil, err)
			continue
		}
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			response, err := s.client.grant(s.base, inFlight.request)
			s.completed(inFlight, response, err)
		}()
	}
}

// take takes the result of a request that was sent over a stream. One that was UNAVAILABLE is sent once more, as any other call.
func (s *grantSender) take(one *inFlight, result *ratelimitv1.GrantResult) {
	if result.GetError() == nil {
		s.completed(one, result.GetResponse(), nil)
		return
	}
	failure := &Error{
		Code: codes.Code(result.GetError().Code), Message: result.GetError().Message, Field: result.GetError().Field,
	}
	if reason := result.GetError().Reason; reason != ratelimitv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		failure.Reason = reason.String()
	}
	if failure.isWorthRepeating() {
		s.alone([]*inFlight{one})
	} else {
		s.completed(one, nil, failure)
	}
}
