"""Limits as headers show them."""

from typing import NamedTuple

from ratelimit_service.decision.charge import Weighed
from ratelimit_service.decision.limit import MICRO, Quota, TokenBucket
from ratelimit_service.doors.check_messages import window_us

MOST_LABELS = 10_000


class Label(NamedTuple):
    """What is the same of a limit for every client.

    `name` as it was given, `quoted` as a structured-field string, `policy` as an item of `RateLimit-Policy`;
    `capacity` in whole tokens.
    """

    name: str
    quoted: str
    policy: str
    capacity: int


class ShownLimit(NamedTuple):
    """A limit on a call.

    `remaining`: whole tokens left. `seconds`: until it no longer denies, or else until it is untouched; rounded up.
    `denies`: whether it denied the call.
    """

    label: Label
    remaining: int
    seconds: int
    denies: bool

    @classmethod
    def of(cls, label: Label, weighed: Weighed) -> "ShownLimit":
        """A limit by what its bucket said."""
        remaining, wait_us, reset_us = weighed
        return cls(label, remaining // MICRO, whole_seconds(wait_us if wait_us > 0 else reset_us), wait_us != 0)


class Labels:
    """Makes a label once for each limit, and keeps at most MOST_LABELS of them. One thread only may use them."""

    def __init__(self) -> None:
        self._labels: dict[tuple[str, int], tuple[TokenBucket | Quota, Label]] = {}

    def of(self, name: str, algorithm: TokenBucket | Quota) -> Label:
        """The label of a limit. One without a name is called by its window, a bucket `bucket`."""
        key = (name, id(algorithm))
        known = self._labels.get(key)
        if known is not None:
            return known[1]
        label = _label(name, algorithm)
        if len(self._labels) >= MOST_LABELS:
            self._labels.clear()
        self._labels[key] = (algorithm, label)  # with the algorithm, so that no other gets its id meanwhile
        return label


def whole_seconds(microseconds: int) -> int:
    """Seconds, rounded up."""
    return -(-microseconds // MICRO)


def _label(name: str, algorithm: TokenBucket | Quota) -> Label:
    if isinstance(algorithm, TokenBucket):
        usual_name, capacity = "bucket", algorithm.capacity
    else:
        usual_name, capacity = algorithm.window.value, algorithm.amount
    # No name has quotes or backslashes: there is nothing to escape.
    quoted = f'"{name or usual_name}"'
    window = max(1, whole_seconds(window_us(algorithm)))
    return Label(name, quoted, f"{quoted};q={capacity};w={window}", capacity)
