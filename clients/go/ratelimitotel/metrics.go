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

// Metrics counts decisions and failures, measures how long decisions take, and counts what becomes of grants. It is a
// ratelimit.ClientMetrics.
type Metrics struct {
	decisions metric.Int64Counter
	duration  metric.Float64Histogram
	failures  metric.Int64Counter
	units     metric.Int64Counter
	held      metric.Int64UpDownCounter
	requests  metric.Int64Counter
}

// NewMetrics creates the instruments ratelimit.client.decisions, ratelimit.client.duration (in seconds) and
// ratelimit.client.failures; and for ratelimit.ModeGranted ratelimit.client.grant_units, ratelimit.client.grant_units_held and
// ratelimit.client.grant_requests. It returns an error if the provider does.
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
	units, err4 := meter.Int64Counter("ratelimit.client.grant_units",
		metric.WithUnit("{unit}"), metric.WithDescription("Units of calls that the service has granted."))
	held, err5 := meter.Int64UpDownCounter("ratelimit.client.grant_units_held",
		metric.WithUnit("{unit}"), metric.WithDescription("Units of calls that are held now."))
	requests, err6 := meter.Int64Counter("ratelimit.client.grant_requests",
		metric.WithUnit("{request}"), metric.WithDescription("Requests for units of calls."))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, fmt.Errorf("ratelimitotel: cannot create the instruments: %w", err)
	}
	return &Metrics{decisions, duration, failures, units, held, requests}, nil
}

// Decided counts and measures a decision.
func (m *Metrics) Decided(decision ratelimit.Decision, duration time.Duration) {
	attributes := ofDecision(decision.Allowed, decision.Origin, decision.Degraded())
	m.decisions.Add(context.Background(), 1, attributes)
	m.duration.Record(context.Background(), duration.Seconds(), attributes)
}

func ofDecision(allowed bool, origin ratelimit.Origin, degraded bool) metric.MeasurementOption {
	outcome := "denied"
	if allowed {
		outcome = "allowed"
	}
	return metric.WithAttributeSet(attribute.NewSet(
		attribute.String("ratelimit.outcome", outcome),
		attribute.String("ratelimit.origin", string(origin)),
		attribute.Bool("ratelimit.degraded", degraded)))
}

// Failed counts a failure.
func (m *Metrics) Failed(failure *ratelimit.Error, outcome string) {
	m.failures.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(
		attribute.String("ratelimit.outcome", outcome),
		attribute.String("ratelimit.status", code.Code(failure.Code).String()))))
}

// Granted counts what a client has decided by units, and what has become of them.
func (m *Metrics) Granted(change ratelimit.Grants) {
	add(m.decisions, change.Allowed, ofDecision(true, ratelimit.OriginGrant, false))
	add(m.decisions, change.Denied, ofDecision(false, ratelimit.OriginCache, false))
	add(m.units, change.Granted, metric.WithAttributes(attribute.String("ratelimit.units", "granted")))
	add(m.units, change.Returned, metric.WithAttributes(attribute.String("ratelimit.units", "returned")))
	add(m.units, change.Expired, metric.WithAttributes(attribute.String("ratelimit.units", "expired")))
	m.held.Add(context.Background(), change.Held)
	add(m.requests, change.Requests)
}

// add counts, but makes no series for nothing.
func add(counter metric.Int64Counter, count uint64, options ...metric.AddOption) {
	if count > 0 {
		counter.Add(context.Background(), int64(count), options...)
	}
}
