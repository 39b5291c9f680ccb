"""Limits and overrides as messages of `ratelimit.v1`."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, TypeVar

from ratelimit_service._gen.ratelimit.v1 import limit_pb2, rules_pb2
from ratelimit_service.api.key_admin.fields import (
    duration_from_proto,
    duration_to_proto,
    require_message,
    time_from_proto,
    time_to_proto,
    under,
)
from ratelimit_service.decision.descriptors.rules import Blocked, Unlimited
from ratelimit_service.decision.limit import (
    Algorithm,
    Concurrency,
    Counting,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
    is_unbounded,
    most_overdraft,
)
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import FieldViolation, InvalidArgument

T = TypeVar("T", bound=Enum)

_MODES: Final[Mapping[int, Mode]] = {
    limit_pb2.Limit.MODE_UNSPECIFIED: Mode.ENFORCE,
    limit_pb2.Limit.ENFORCE: Mode.ENFORCE,
    limit_pb2.Limit.SHADOW: Mode.SHADOW,
}
_MODE_NUMBERS = {Mode.ENFORCE: limit_pb2.Limit.ENFORCE, Mode.SHADOW: limit_pb2.Limit.SHADOW}
_COUNTINGS: Final[Mapping[int, Counting]] = {
    limit_pb2.Limit.COUNTS_UNSPECIFIED: Counting.COST,
    limit_pb2.Limit.COST: Counting.COST,
    limit_pb2.Limit.CALLS: Counting.CALLS,
}
_COUNTING_NUMBERS = {Counting.COST: limit_pb2.Limit.COST, Counting.CALLS: limit_pb2.Limit.CALLS}
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


def limit_from_proto(message: limit_pb2.Limit, field: str) -> Limit:
    """Return the limit of a message that is in FIELD. Raises InvalidArgument with the path of the invalid field."""
    with under(field):
        algorithm = _algorithm_from_proto(message)
        return Limit(
            message.name,
            algorithm,
            message.resource or "*",
            mode_from_proto(message.mode),
            counts_from_proto(message.counts),
            overdraft_from_proto(message, algorithm),
        )


def limits_from_proto(messages: Iterable[limit_pb2.Limit], field: str) -> tuple[Limit, ...]:
    """Return the limits of a list that is in FIELD. Raises InvalidArgument with the invalid fields of each."""
    limits: list[Limit] = []
    violations: list[FieldViolation] = []
    for position, message in enumerate(messages):
        try:
            limits.append(limit_from_proto(message, f"{field}[{position}]"))
        except InvalidArgument as error:
            violations.extend(error.violations)
    if violations:
        raise InvalidArgument(*violations)
    return tuple(limits)


def limit_to_proto(limit: Limit) -> limit_pb2.Limit:
    """Return the message of a limit."""
    message = limit_pb2.Limit(
        name=limit.name,
        resource=limit.resource,
        mode=mode_to_proto(limit.mode),
        counts=counts_to_proto(limit.counts),
    )
    if limit.overdraft is not None:
        message.overdraft.CopyFrom(overdraft_to_proto(limit.algorithm, limit.overdraft))
    if isinstance(limit.algorithm, TokenBucket):
        message.token_bucket.CopyFrom(token_bucket_to_proto(limit.algorithm))
    elif isinstance(limit.algorithm, Concurrency):
        message.concurrency.CopyFrom(_concurrency_to_proto(limit.algorithm))
    else:
        message.quota.CopyFrom(quota_to_proto(limit.algorithm))
    return message


def override_from_proto(message: limit_pb2.Override, field: str) -> Override:
    """Return the override of a message that is in FIELD. Raises InvalidArgument with the path of the invalid field."""
    require_message(f"{field}.limit", present=message.HasField("limit"))
    limit = limit_from_proto(message.limit, f"{field}.limit")
    expires = time_from_proto(message.expire_time, f"{field}.expire_time") if message.HasField("expire_time") else None
    return Override(limit, expires)


def override_to_proto(override: Override) -> limit_pb2.Override:
    """Return the message of an override."""
    return limit_pb2.Override(limit=limit_to_proto(override.limit), expire_time=time_to_proto(override.expires_us))


def mode_from_proto(mode: "limit_pb2.Limit.Mode.ValueType") -> Mode:
    """Return the mode of a number; 0 means ENFORCE. Raises InvalidArgument (field `mode`)."""
    return _known("mode", mode, _MODES)


def mode_to_proto(mode: Mode) -> "limit_pb2.Limit.Mode.ValueType":
    """Return the number of a mode."""
    return _MODE_NUMBERS[mode]


def counts_from_proto(counts: "limit_pb2.Limit.Counts.ValueType") -> Counting:
    """Return what a limit counts by its number; 0 means COST. Raises InvalidArgument (field `counts`)."""
    return _known("counts", counts, _COUNTINGS)


def counts_to_proto(counts: Counting) -> "limit_pb2.Limit.Counts.ValueType":
    """Return the number of what a limit counts."""
    return _COUNTING_NUMBERS[counts]


def token_bucket_from_proto(message: limit_pb2.TokenBucket) -> TokenBucket:
    """Return the bucket of a message. Raises InvalidArgument with a field below `token_bucket`."""
    require_message("token_bucket.refill_period", present=message.HasField("refill_period"))
    period_us = duration_from_proto(message.refill_period, "token_bucket.refill_period")
    return TokenBucket(message.capacity, message.refill_tokens, period_us)


def token_bucket_to_proto(bucket: TokenBucket) -> limit_pb2.TokenBucket:
    """Return the message of a bucket."""
    return limit_pb2.TokenBucket(
        capacity=bucket.capacity,
        refill_tokens=bucket.refill_tokens,
        refill_period=duration_to_proto(bucket.refill_period_us),
    )


def quota_from_proto(message: limit_pb2.Quota) -> Quota:
    """Return the quota of a message. Raises InvalidArgument with a field below `quota`."""
    window = _WINDOWS.get(message.window)
    if window is None:
        raise InvalidArgument.of(
            "quota.window", f"is {message.window}; use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH or YEAR"
        )
    return Quota(message.amount, window)


def quota_to_proto(quota: Quota) -> limit_pb2.Quota:
    """Return the message of a quota."""
    return limit_pb2.Quota(amount=quota.amount, window=_WINDOW_NUMBERS[quota.window])


def _concurrency_from_proto(message: limit_pb2.Concurrency) -> Concurrency:
    """Return the concurrency limit of a message. Raises InvalidArgument with a field below `concurrency`."""
    require_message("concurrency.default_hold", present=message.HasField("default_hold"))
    return Concurrency(message.max, duration_from_proto(message.default_hold, "concurrency.default_hold"))


def _concurrency_to_proto(concurrency: Concurrency) -> limit_pb2.Concurrency:
    return limit_pb2.Concurrency(max=concurrency.max, default_hold=duration_to_proto(concurrency.default_hold_us))


def either(choices: Iterable[Enum]) -> str:
    """The names of choices, each once: `ENFORCE or SHADOW`."""
    *names, last = dict.fromkeys(choice.name for choice in choices)
    return f"{', '.join(names)} or {last}"


def _known(field: str, number: int, known: Mapping[int, T]) -> T:
    if number not in known:
        raise InvalidArgument.of(field, f"is {number}; use {either(known.values())}")
    return known[number]


def overdraft_from_proto(
    message: limit_pb2.Limit | rules_pb2.DescriptorLimit, algorithm: Algorithm | Unlimited | Blocked
) -> int | None:
    """Return a limit's overdraft in tokens, None if it has none. Raises InvalidArgument with a field in `overdraft`.

    One that is unbounded is as large as is counted exactly.
    """
    if not message.HasField("overdraft"):
        return None
    if not message.overdraft.unbounded:
        return message.overdraft.tokens
    if not isinstance(algorithm, Quota):
        raise InvalidArgument.of("overdraft.unbounded", "is for a quota only; set overdraft.tokens for a token bucket")
    if message.overdraft.tokens:
        raise InvalidArgument.of(
            "overdraft.tokens", f"is {message.overdraft.tokens}, but it is unbounded; set one of them"
        )
    return most_overdraft(algorithm)


def overdraft_to_proto(algorithm: Algorithm, overdraft: int) -> limit_pb2.Overdraft:
    """Return the message of an overdraft."""
    if is_unbounded(algorithm, overdraft):
        return limit_pb2.Overdraft(unbounded=True)
    return limit_pb2.Overdraft(tokens=overdraft)


def _algorithm_from_proto(message: limit_pb2.Limit) -> Algorithm:
    kind = message.WhichOneof("algorithm")
    if kind == "token_bucket":
        return token_bucket_from_proto(message.token_bucket)
    if kind == "quota":
        return quota_from_proto(message.quota)
    if kind == "concurrency":
        return _concurrency_from_proto(message.concurrency)
    raise InvalidArgument.of("algorithm", "is missing; set token_bucket, quota or concurrency")
