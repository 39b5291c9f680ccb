"""Metrics for OpenTelemetry. Needs its API: `pip install 'ratelimit-service-client[opentelemetry]'`.

from ratelimit_client.opentelemetry import OpenTelemetryMetrics
client = RateLimitClient("localhost:50051", metrics=OpenTelemetryMetrics())
"""

from opentelemetry.metrics import MeterProvider, get_meter_provider

from .decision import Decision
from .error import RateLimitError
from .failures import Outcome
from .grants import Grants

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds. OpenTelemetry's own are for milliseconds: one bucket would have everything."""


class OpenTelemetryMetrics:
    """Counts decisions and failures, and measures how long decisions take.

    The instruments `ratelimit.client.decisions`, `ratelimit.client.duration` (in seconds), `ratelimit.client.failures`,
    and of mode `granted` `ratelimit.client.grant_units`, `ratelimit.client.grant_units_held` and
    `ratelimit.client.grant_requests` are those of METER_PROVIDER, by default of the global one.
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        meter = (meter_provider or get_meter_provider()).get_meter("ratelimit_client")
        self._decisions = meter.create_counter(
            "ratelimit.client.decisions", unit="{decision}", description="Calls that were decided."
        )
        self._duration = meter.create_histogram(
            "ratelimit.client.duration",
            unit="s",
            description="How long decisions took.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._failures = meter.create_counter(
            "ratelimit.client.failures", unit="{failure}", description="Calls that failed because the service did."
        )
        self._units = meter.create_counter(
            "ratelimit.client.grant_units", unit="{unit}", description="Units of calls that the service has granted."
        )
        self._held = meter.create_up_down_counter(
            "ratelimit.client.grant_units_held", unit="{unit}", description="Units of calls that are held now."
        )
        self._requests = meter.create_counter(
            "ratelimit.client.grant_requests", unit="{request}", description="Requests for units of calls."
        )

    def decided(self, decision: Decision, duration: float) -> None:
        """Count and measure a DECISION that took DURATION seconds."""
        attributes = {
            "ratelimit.outcome": "allowed" if decision.allowed else "denied",
            "ratelimit.origin": decision.origin.value,
            "ratelimit.degraded": decision.degraded,
        }
        self._decisions.add(1, attributes)
        self._duration.record(duration, attributes)

    def failed(self, error: RateLimitError, outcome: Outcome) -> None:
        """Count a failure."""
        self._failures.add(1, {"ratelimit.outcome": outcome, "ratelimit.status": error.code.name})

    def granted(self, change: Grants) -> None:
        """Count what a client has decided by grants, and what became of their units."""
        for outcome, calls, origin in (("allowed", change.allowed, "GRANT"), ("denied", change.denied, "CACHE")):
            if calls:
                self._decisions.add(
                    calls, {"ratelimit.outcome": outcome, "ratelimit.origin": origin, "ratelimit.degraded": False}
                )
        for state in ("granted", "returned", "expired"):
            self._units.add(getattr(change, state), {"ratelimit.units": state})
        self._held.add(change.held)
        self._requests.add(change.requests)
