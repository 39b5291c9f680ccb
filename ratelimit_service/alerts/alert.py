"""Alerts and the messages about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Rule(StrEnum):
    """The built-in rules."""

    QUOTA = "quota"
    DENIALS = "denials"
    DEGRADED = "degraded"


class AlertState(StrEnum):
    """Whether the condition of an alert holds."""

    FIRING = "firing"
    RESOLVED = "resolved"


class DeliveryEvent(StrEnum):
    """What a message reports. A firing alert is reported again when its level rises."""

    FIRING = "firing"
    RESOLVED = "resolved"
    TEST = "test"


class DeliveryState(StrEnum):
    """How far a message has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that a rule has found to hold.

    `target` is `subjects/<subject>`, `keys/<key_id>`, `plans/<name>` or `service`; `limit` the limit's name, or empty.
    `level` is the percentage that was passed, for quotas, and 0 otherwise. `detail` has numbers and texts only.
    """

    rule: Rule
    target: str
    limit: str
    level: int
    summary: str
    detail: Mapping[str, Any]

    @property
    def episode(self) -> tuple[Rule, str, str]:
        """What at most one alert is firing for at a time."""
        return self.rule, self.target, self.limit


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message to the webhook: `body` is sent as it is, every time with the same `delivery_id`.

    Times are microseconds since 1970 UTC. `next_us` is None unless the message is pending. `status` is the HTTP status
    of the last attempt, 0 without a response; `error` why that failed, empty if it did not. `alert_id` is None for a
    test.
    """

    delivery_id: str
    alert_id: int | None
    event: DeliveryEvent
    body: str
    created_us: int
    state: DeliveryState = DeliveryState.PENDING
    attempts: int = 0
    next_us: int | None = None
    last_us: int | None = None
    status: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """One episode: from when a condition began to hold until it did no more. Times as in Delivery.

    `ended_us` is None while it is firing. `deliveries` are the newest messages about it, the newest first.
    """

    alert_id: int
    rule: Rule
    target: str
    limit: str
    level: int
    summary: str
    detail: Mapping[str, Any]
    started_us: int
    updated_us: int
    ended_us: int | None = None
    deliveries: Sequence[Delivery] = field(default=())

    @property
    def state(self) -> AlertState:
        """Whether the condition holds."""
        return AlertState.FIRING if self.ended_us is None else AlertState.RESOLVED

    @property
    def episode(self) -> tuple[Rule, str, str]:
        """What at most one alert is firing for at a time."""
        return self.rule, self.target, self.limit
