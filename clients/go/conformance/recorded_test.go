package conformance_test

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

// recordedMetrics counts what a client's metrics get.
type recordedMetrics struct {
	mutex     sync.Mutex
	decisions int
	failures  ratelimit.Failures
	grants    map[string]float64
}

func (m *recordedMetrics) Decided(_ ratelimit.Decision, _ time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.decisions++
}

func (m *recordedMetrics) Failed(_ *ratelimit.Error, outcome string) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	switch outcome {
	case "open":
		m.failures.Open++
	case "closed":
		m.failures.Closed++
	case "unsettled":
		m.failures.Unsettled++
	}
}

func (m *recordedMetrics) Granted(change ratelimit.Grants) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.grants == nil {
		m.grants = map[string]float64{}
	}
	for name, by := range grantFields(change) {
		m.grants[name] += by
	}
}

// grantFields is the numbers by their names in the cases.
func grantFields(grants ratelimit.Grants) map[string]float64 {
	return map[string]float64{
		"allowed": float64(grants.Allowed), "denied": float64(grants.Denied), "waited": float64(grants.Waited),
		"requests": float64(grants.Requests), "granted": float64(grants.Granted), "returned": float64(grants.Returned),
		"expired": float64(grants.Expired), "held": float64(grants.Held),
	}
}

// granted is the sum of all changes of grants.
func (m *recordedMetrics) granted() map[string]float64 {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return maps.Clone(m.grants)
}

// take returns the decisions since it was called last, and all failures.
func (m *recordedMetrics) take() (decisions int, failures ratelimit.Failures) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	decisions, m.decisions = m.decisions, 0
	return decisions, m.failures
}

// warnings is a handler of slog that keeps the texts of warnings.
type warnings struct {
	mutex sync.Mutex
	texts []string
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *warnings) WithGroup(string) slog.Handler            { return w }

func (w *warnings) Handle(_ context.Context, record slog.Record) error {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if record.Level == slog.LevelWarn {
		w.texts = append(w.texts, record.Message)
	}
	return nil
}

// take returns the texts since it was called last.
func (w *warnings) take() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	texts := append([]string{}, w.texts...)
	w.texts = nil
	return texts
}
