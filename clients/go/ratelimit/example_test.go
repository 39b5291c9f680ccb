package ratelimit_test

import (
	"context"
	"errors"
	"log"
	"time"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

type languageModel struct{}

type modelAnswer struct{ Tokens uint64 }

func (languageModel) Answer(context.Context, string, uint64) (modelAnswer, error) {
	return modelAnswer{Tokens: 120}, nil
}

// At its start, a program waits until the service answers.
func ExampleClient_Ready() {
	ctx, key := context.Background(), "rlk_live_..."
	client, err := ratelimit.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	starting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := client.Ready(starting); err != nil {
		log.Fatal(err)
	}
	decision, err := client.Check(ctx, ratelimit.CheckRequest{APIKey: key, Resource: "orders.create"})
	if err == nil && !decision.Allowed {
		log.Println(decision.Reason, decision.RetryAfter)
	}
}

// The most that an answer may take is reserved, and what it took is settled.
func ExampleClient_Reserve() {
	var (
		ctx          = context.Background()
		model        languageModel
		prompt, key  string
		maxTokens    = uint64(500)
		errOverLimit = errors.New("over the limit")
	)
	client, err := ratelimit.NewClient("localhost:50051")
	if err != nil {
		log.Fatal(err)
	}
	answer := func() error {
		reservation, err := client.Reserve(ctx, ratelimit.ReserveRequest{
			APIKey: key, Resource: "chat.create", Estimate: maxTokens, Hold: time.Minute,
		})
		if err != nil {
			return err
		}
		defer reservation.Close()
		if !reservation.Allowed {
			return errOverLimit
		}
		answer, err := model.Answer(ctx, prompt, maxTokens)
		if err != nil {
			reservation.Abandon()
			return err
		}
		_, err = reservation.Settle(ctx, answer.Tokens)
		return err
	}
	if err := answer(); err != nil {
		log.Println(err)
	}
}
