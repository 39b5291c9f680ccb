"""Limits and overrides as messages of `ratelimit.v1`. The only place that knows both."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1 import limit_pb2
from ratelimit_service.api.key_admin.fields import (
    MAX_VIOLATIONS,
    from_duration_us,
    from_time_us,
    require_message,
    to_duration_us,
    to_time_us,
    under,
)
from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import FieldViolation, InvalidArgument

_MODES = {
    limit_pb2.Limit.MODE_UNSPECIFIED: Mode.ENFORCE,
    limit_pb2.Limit.ENFORCE: Mode.ENFORCE,
    limit_pb2.Limit.SHADOW: Mode.SHADOW,
}
_MODE_NUMBERS = {Mode.ENFORCE: limit_pb2.Limit.ENFORCE, Mode.SHADOW: limit_pb2.Limit.SHADOW}
_WINDOW_NUMBERS = {
    Window.SECOND: limit_pb2.Quota.SECOND,
    Window.MINUTE: limit_pb2.Quota.MINUTE,
    Window.HOUR: limit_pb2.Quota.HOUR,
    Window.DAY: limit_pb2.Quota.DAY,
    Window.WEEK: limit_pb2.Quota.WEEK,
    Window.MONTH: limit_pb2.Quota.MONTH,
    Window.YEAR: limit_pb2.Quota.YEAR,
}
_WINDOWS = {number: window for window, number in _WINDOW_NUMBERS.items()}


def to_limit(message: limit_pb2.Limit, field: str) -> Limit:
    """Return the limit of a message that is in FIELD. Raises InvalidArgument with the path of the field at fault."""
    with under(field):
        return Limit(message.name, _to_algorithm(message), message.resource or "*", to_mode(message.mode))


def to_limits(messages: Iterable[limit_pb2.Limit], field: str) -> tuple[Limit, ...]:
    """Return the limits of a list that is in FIELD. Raises InvalidArgument with what is at fault in each of them."""
    limits: list[Limit] = []
    violations: list[FieldViolation] = []
    for position, message in enumerate(messages):
        try:
            limits.append(to_limit(message, f"{field}[{position}]"))
        except InvalidArgument as fault:
            violations.extend(fault.violations)
    if violations:
        raise InvalidArgument(*violations[:MAX_VIOLATIONS])
    return tuple(limits)


def from_limit(limit: Limit) -> limit_pb2.Limit:
    """Return the message of a limit."""
    message = limit_pb2.Limit(name=limit.name, resource=limit.resource, mode=from_mode(limit.mode))
    if isinstance(limit.algorithm, TokenBucket):
        message.token_bucket.CopyFrom(from_token_bucket(limit.algorithm))
    else:
        message.quota.CopyFrom(from_quota(limit.algorithm))
    return message


def to_override(message: limit_pb2.Override, field: str) -> Override:
    """Return the override of a message that is in FIELD. Raises InvalidArgument with the path of the field at fault."""
    require_message(f"{field}.limit", present=message.HasField("limit"))
    limit = to_limit(message.limit, f"{field}.limit")
    expires = to_time_us(f"{field}.expire_time", message.expire_time) if message.HasField("expire_time") else None
    return Override(limit, expires)


def from_override(override: Override) -> limit_pb2.Override:
    """Return the message of an override."""
    return limit_pb2.Override(limit=from_limit(override.limit), expire_time=from_time_us(override.expires_us))


def to_mode(mode: "limit_pb2.Limit.Mode.ValueType") -> Mode:
    """Return the mode of a number; 0 means ENFORCE. Raises InvalidArgument (field `mode`)."""
    chosen = _MODES.get(mode)
    if chosen is None:
        raise InvalidArgument.of("mode", f"is {mode}; use ENFORCE or SHADOW")
    return chosen


def from_mode(mode: Mode) -> "limit_pb2.Limit.Mode.ValueType":
    """Return the number of a mode."""
    return _MODE_NUMBERS[mode]


def to_token_bucket(message: limit_pb2.TokenBucket) -> TokenBucket:
    """Return the bucket of a message. Raises InvalidArgument with a field below `token_bucket`."""
    require_message("token_bucket.refill_period", present=message.HasField("refill_period"))
    period_us = to_duration_us("token_bucket.refill_period", message.refill_period)
    return TokenBucket(message.capacity, message.refill_tokens, period_us)


def from_token_bucket(bucket: TokenBucket) -> limit_pb2.TokenBucket:
    """Return the message of a bucket."""
    return limit_pb2.TokenBucket(
        capacity=bucket.capacity,
        refill_tokens=bucket.refill_tokens,
        refill_period=from_duration_us(bucket.refill_period_us),
    )


def to_quota(message: limit_pb2.Quota) -> Quota:
    """Return the quota of a message. Raises InvalidArgument with a field below `quota`."""
    window = _WINDOWS.get(message.window)
    if window is None:
        raise InvalidArgument.of(
            "quota.window", f"is {message.window}; use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
        )
    return Quota(message.amount, window)


def from_quota(quota: Quota) -> limit_pb2.Quota:
    """Return the message of a quota."""
    return limit_pb2.Quota(amount=quota.amount, window=_WINDOW_NUMBERS[quota.window])


def _to_algorithm(message: limit_pb2.Limit) -> TokenBucket | Quota:
    kind = message.WhichOneof("algorithm")
    if kind == "token_bucket":
        return to_token_bucket(message.token_bucket)
    if kind == "quota":
        return to_quota(message.quota)
    raise InvalidArgument.of("algorithm", "is missing; set token_bucket or quota")
