"""Alerts as Prometheus metrics."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from ratelimit_service.alerts.alert import Rule

_OUTCOMES = ("delivered", "failed", "given_up")


class AlertMetrics:
    """As `alerts.ports.AlertObserver` describes it. Gauges are 0 in processes that do not lead."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._firing = Gauge(
            "ratelimit_alerts_firing",
            "Alerts that are firing.",
            ("rule",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._unread = Gauge(
            "ratelimit_alert_subjects_unread",
            "Subjects near a quota that the last evaluation left out: of more than 500 it checks some, by chance.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._pending = Gauge(
            "ratelimit_alert_deliveries_pending",
            "Messages to the webhook that are yet to be delivered.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._attempts = Counter(
            "ratelimit_alert_deliveries",
            "Attempts to deliver a message to the webhook, by outcome. A message is given up after a day.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in _OUTCOMES:
            self._attempts.labels(outcome)
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
