package ratelimitotel_test

import (
	"log"

	"go.opentelemetry.io/otel"

	"github.com/ratelimit-service/clients/go/ratelimit"
	"github.com/ratelimit-service/clients/go/ratelimitotel"
)

// Decisions and failures are counted by the global provider.
func ExampleNewMetrics() {
	metrics, err := ratelimitotel.NewMetrics(otel.GetMeterProvider())
	if err != nil {
		log.Fatal(err)
	}
	client, err := ratelimit.NewClient("localhost:50051", ratelimit.WithMetrics(metrics))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}
