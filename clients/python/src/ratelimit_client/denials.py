"""The denials that a client remembers, so that a caller that keeps knocking costs the service nothing."""

import threading
from collections.abc import Callable
from datetime import timedelta
from hashlib import blake2b
from typing import NamedTuple

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from .decision import Decision, Reason

Clock = Callable[[], int]
"""Gives nanoseconds that never go back, such as `time.monotonic_ns`."""

_MICROSECOND = 1000  # nanoseconds


class CallKey(NamedTuple):
    """What a denial is remembered under. The credential is a digest: no secret outlives its call."""

    credential: bytes
    resource: str
    cost: int

    @classmethod
    def of(cls, request: CheckLimitRequest) -> "CallKey":
        """What to remember the answer to REQUEST under, whose cost must be set."""
        kind = request.WhichOneof("credential") or "none"
        credential: str = getattr(request, kind, "")
        digest = blake2b(credential.encode(), digest_size=16, person=kind.encode()).digest()
        return cls(digest, request.resource, request.cost)


class _Remembered(NamedTuple):
    decision: Decision
    since: int
    until: int


class Denials:
    """At most SIZE denials, each kept until its `retry_after` has passed, or LONGEST if that is sooner."""

    def __init__(self, size: int, longest: timedelta, clock: Clock) -> None:
        self._size = size
        self._longest = longest
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[CallKey, _Remembered] = {}  # the one put in first comes first

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CallKey) -> Decision | None:
        """The denial remembered under KEY, its waits shorter by the time since. None when there is none (any more)."""
        found = self._entries.get(key)
        if found is None:
            return None
        now = self._clock()
        if now >= found.until:
            with self._lock:
                if self._entries.get(key) is found:
                    del self._entries[key]
            return None
        return found.decision.after(timedelta(microseconds=(now - found.since) // _MICROSECOND))

    def put(self, key: CallKey, decision: Decision) -> None:
        """Remember DECISION if it is a denial that a wait will end."""
        if decision.reason is not Reason.OVER_LIMIT or decision.retry_after is None or decision.allowed:
            return
        now = self._clock()
        wait = min(decision.retry_after, self._longest) // timedelta(microseconds=1) * _MICROSECOND
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = _Remembered(decision, now, now + wait)
            while len(self._entries) > self._size:
                del self._entries[next(iter(self._entries))]
