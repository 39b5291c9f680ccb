// Package ratelimitotel has metrics of the client for OpenTelemetry.
//
//	metrics, err := ratelimitotel.NewMetrics(otel.GetMeterProvider())
//	client, err := ratelimit.NewClient("localhost:50051", ratelimit.WithMetrics(metrics))
package ratelimitotel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// Metrics counts decisions and failures, and measures how long decisions take. It is a ratelimit.ClientMetrics.
type Metrics struct {
	decisions metric.Int64Counter
	duration  metric.Float64Histogram
	failures  metric.Int64Counter
}

// NewMetrics creates the instruments ratelimit.client.decisions, ratelimit.client.duration (in seconds) and
// ratelimit.client.failures. It returns an error if the provider does.
func NewMetrics(provider metric.MeterProvider) (*Metrics, error) {
	meter := provider.Meter("github.com/ratelimit-service/clients/go/ratelimit")
	decisions, err1 := meter.Int64Counter("ratelimit.client.decisions",
		metric.WithUnit("{decision}"), metric.WithDescription("Calls that were decided."))
	duration, err2 := meter.Float64Histogram("ratelimit.client.duration",
		metric.WithUnit("s"), metric.WithDescription("How long decisions took."),
		// OpenTelemetry's own bounds are for milliseconds: one bucket would have everything.
		metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5))
	failures, err3 := meter.Int64Counter("ratelimit.client.failures",
		metric.WithUnit("{failure}"), metric.WithDescription("Calls that failed because the service did."))
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("ratelimitotel: cannot create the instruments: %w", err)
	}
	return &Metrics{decisions: decisions, duration: duration, failures: failures}, nil
}

// Decided counts and measures a decision.
func (m *Metrics) Decided(decision ratelimit.Decision, duration time.Duration) {
	outcome := "denied"
	if decision.Allowed {
		outcome = "allowed"
	}
	attributes := metric.WithAttributeSet(attribute.NewSet(
		attribute.String("ratelimit.outcome", outcome),
		attribute.String("ratelimit.origin", string(decision.Origin)),
		attribute.Bool("ratelimit.degraded", decision.Degraded())))
	m.decisions.Add(context.Background(), 1, attributes)
	m.duration.Record(context.Background(), duration.Seconds(), attributes)
}

// Failed counts a failure.
func (m *Metrics) Failed(failure *ratelimit.Error, outcome string) {
	m.failures.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(
		attribute.String("ratelimit.outcome", outcome),
		attribute.String("ratelimit.status", code.Code(failure.Code).String()))))
}
