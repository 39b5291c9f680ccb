"""Messages to the webhook: their body, their signature, and when they are sent again."""

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from ratelimit_service.alerts.alert import Alert, Delivery, DeliveryEvent, DeliveryState
from ratelimit_service.alerts.ports import Response
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.management.audit import rfc3339

ID_HEADER: Final = "RateLimit-Webhook-Id"
"""The header with the id of the message, which stays the same when it is sent again."""

TIMESTAMP_HEADER: Final = "RateLimit-Webhook-Timestamp"
"""The header with the time of sending, in seconds since 1970 UTC."""

SIGNATURE_HEADER: Final = "RateLimit-Webhook-Signature"
"""The header with `sha256=` and the HMAC-SHA256, in hex, of the timestamp, a dot and the body."""

GIVE_UP_US: Final = 24 * 3_600 * MICRO
"""After which a message that could not be delivered is not sent any more."""

_FIRST_PAUSE_US: Final = 5 * MICRO
_MAX_PAUSE_US: Final = 3_600 * MICRO
_MAX_ERROR: Final = 200


def alert_message(alert: Alert, event: DeliveryEvent, now_us: int) -> Delivery:
    """Make the message that reports a change of an alert."""
    content = {
        "alert_id": str(alert.alert_id),
        "rule": alert.rule.value,
        "state": alert.state.value,
        "target": alert.target,
        "limit": alert.limit,
        "level": alert.level,
        "summary": alert.summary,
        "detail": dict(alert.detail),
        "start_time": rfc3339(alert.started_us),
        "end_time": None if alert.ended_us is None else rfc3339(alert.ended_us),
    }
    return _message(alert.alert_id, event, {"alert": content}, now_us)


def trial_message(actor: str, now_us: int) -> Delivery:
    """Make a message that ACTOR sends to see it arrive."""
    return _message(None, DeliveryEvent.TEST, {"sent_by": actor}, now_us)


def headers_of(delivery: Delivery, secret: bytes, now_us: int) -> Mapping[str, str]:
    """Return the headers with which a message is sent now."""
    timestamp = str(now_us // MICRO)
    return {
        "Content-Type": "application/json",
        ID_HEADER: delivery.delivery_id,
        TIMESTAMP_HEADER: timestamp,
        SIGNATURE_HEADER: f"sha256={sign(secret, timestamp, delivery.body.encode())}",
    }


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of the timestamp, a dot and the body, in hex."""
    return hmac.new(secret, timestamp.encode() + b"." + body, sha256).hexdigest()


def after_attempt(delivery: Delivery, response: Response, now_us: int, jitter: Callable[[], float]) -> Delivery:
    """Return the message after an attempt: delivered, to be sent again, or given up a day after it was made.

    The pauses double from 5 seconds up to an hour. JITTER returns a number from 0 to 1: by up to half they are shorter.
    """
    attempted = replace(
        delivery,
        attempts=delivery.attempts + 1,
        last_us=now_us,
        next_us=None,
        status=response.status,
        error=response.error[:_MAX_ERROR],
    )
    if not response.error:
        return replace(attempted, state=DeliveryState.DELIVERED)
    pause = min(_FIRST_PAUSE_US << min(delivery.attempts, 20), _MAX_PAUSE_US)
    next_us = now_us + round(pause * (1 - jitter() / 2))
    if next_us > delivery.created_us + GIVE_UP_US:
        return replace(attempted, state=DeliveryState.GIVEN_UP)
    return replace(attempted, next_us=next_us)


def _message(alert_id: int | None, event: DeliveryEvent, content: Mapping[str, Any], now_us: int) -> Delivery:
    delivery_id = str(uuid4())
    body = json.dumps({"id": delivery_id, "event": event.value, "time": rfc3339(now_us), **content})
    return Delivery(delivery_id, alert_id, event, body, now_us, next_us=now_us)
