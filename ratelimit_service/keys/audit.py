"""The record of who changed what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratelimit_service.decision.record import ChangeKind


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as it is written down in the transaction of the change itself.

    `action` is like `key.rotate`, `target` like `keys/<key_id>`. `detail` has the fields that changed, each with its
    new value, and never a secret: strings, whole numbers, lists and dicts only. `time_us` is microseconds since 1970
    UTC.
    """

    actor: str
    action: str
    target: str
    detail: Mapping[str, Any]
    time_us: int


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change that was recorded. `event_id` counts up in the order of the changes."""

    event_id: int
    event: Event


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change touches: the policies of this key, subject or plan, or the rules of this domain."""

    kind: ChangeKind
    name: str
