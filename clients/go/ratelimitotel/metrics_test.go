package ratelimitotel_test

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimit-service/clients/go/internal/scripted"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
	"github.com/ratelimit-service/clients/go/ratelimitotel"
)

// Decisions are counted and measured by outcome and origin, failures by outcome and status.
func TestMetrics(t *testing.T) {
	server, err := scripted.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	reader := sdk.NewManualReader()
	metrics, err := ratelimitotel.NewMetrics(sdk.NewMeterProvider(sdk.WithReader(reader)))
	if err != nil {
		t.Fatal(err)
	}
	client, err := ratelimit.NewClient(server.Address(), ratelimit.WithDeadline(scripted.SlowMachine),
		ratelimit.WithOnFailure(func(*ratelimit.Error) {}), ratelimit.WithMetrics(metrics))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server.Script(
		scripted.Decide(&ratelimitv1.CheckLimitResponse{Allowed: true, Source: ratelimit.SourceStore}),
		scripted.Decide(&ratelimitv1.CheckLimitResponse{Source: ratelimit.SourceDegraded}),
		scripted.Fail(status.New(codes.DeadlineExceeded, "2 ms are left")))
	for range 3 {
		if _, err := client.Check(t.Context(), ratelimit.CheckRequest{APIKey: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &collected); err != nil {
		t.Fatal(err)
	}
	decided := func(outcome, origin string, degraded bool) attribute.Set {
		return attribute.NewSet(attribute.String("ratelimit.outcome", outcome), attribute.String("ratelimit.origin", origin),
			attribute.Bool("ratelimit.degraded", degraded))
	}
	decisions := []attribute.Set{
		decided("allowed", "SERVICE", false), decided("denied", "SERVICE", true), decided("allowed", "FALLBACK", true),
	}
	found := map[string]int{}
	for _, one := range collected.ScopeMetrics[0].Metrics {
		switch data := one.Data.(type) {
		case metricdata.Sum[int64]:
			want := decisions
			if one.Name == "ratelimit.client.failures" {
				want = []attribute.Set{attribute.NewSet(
					attribute.String("ratelimit.outcome", "open"), attribute.String("ratelimit.status", "DEADLINE_EXCEEDED"))}
			}
			found[one.Name] = matches(data.DataPoints, want, func(point metricdata.DataPoint[int64]) (attribute.Set, bool) {
				return point.Attributes, point.Value == 1
			})
		case metricdata.Histogram[float64]:
			found[one.Name] = matches(data.DataPoints, decisions,
				func(point metricdata.HistogramDataPoint[float64]) (attribute.Set, bool) {
					return point.Attributes, point.Count == 1 && len(point.Bounds) == 12 && one.Unit == "s"
				})
		}
	}
	for name, want := range map[string]int{
		"ratelimit.client.decisions": 3, "ratelimit.client.duration": 3, "ratelimit.client.failures": 1,
	} {
		if found[name] != want {
			t.Errorf("%s has %d of the %d points that it should have", name, found[name], want)
		}
	}
}

// matches is how many points are right and have one of the sets of attributes.
func matches[P any](points []P, want []attribute.Set, read func(P) (attribute.Set, bool)) int {
	count := 0
	for _, point := range points {
		attributes, right := read(point)
		for _, set := range want {
			if right && set.Equals(&attributes) {
				count++
			}
		}
	}
	return count
}
