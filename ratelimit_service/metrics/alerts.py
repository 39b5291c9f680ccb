"""Alerts as Prometheus metrics."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from ratelimit_service.alerts.alert import Rule
from ratelimit_service.metrics import catalogue
from ratelimit_service.metrics.export import counter, gauge


class AlertMetrics:
    """As `alerts.ports.AlertObserver` describes it. Gauges are 0 in processes that do not lead."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._firing = gauge(catalogue.ALERTS_FIRING, self.registry)
        self._unread = gauge(catalogue.ALERT_SUBJECTS_UNREAD, self.registry)
        self._pending = gauge(catalogue.ALERT_DELIVERIES_PENDING, self.registry)
        self._attempts = counter(catalogue.ALERT_DELIVERIES, self.registry)
        self.firing({})

    def firing(self, counts: Mapping[Rule, int]) -> None:
        """Set the number of alerts of each rule that are firing."""
        for rule in Rule:
            self._firing.labels(rule.value).set(counts.get(rule, 0))

    def unread(self, subjects: int) -> None:
        """Set the number of subjects near a quota whose buckets were not read."""
        self._unread.set(subjects)

    def attempted(self, outcome: str) -> None:
        """Count an attempt."""
        self._attempts.labels(outcome).inc()

    def pending(self, count: int) -> None:
        """Set the number of messages that are pending."""
        self._pending.set(count)
