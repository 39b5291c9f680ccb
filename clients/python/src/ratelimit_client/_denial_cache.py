"""The cache of denials, so that a caller that keeps retrying costs the service nothing."""

import threading
from collections import OrderedDict
from datetime import timedelta
from hashlib import blake2b
from typing import NamedTuple

from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from .decision import Decision, Origin, Reason
from .options import Clock

_MICROSECOND = 1000  # nanoseconds


class CacheKey(NamedTuple):
    """What a denial is cached under. The API key is a digest: the client keeps no secret longer than its call."""

    credential: bytes
    resource: str
    cost: int

    @classmethod
    def of(cls, request: CheckLimitRequest) -> "CacheKey":
        """The key for the response to REQUEST, whose cost must be set."""
        kind = request.WhichOneof("credential") or "none"
        credential: str = getattr(request, kind, "")
        digest = blake2b(credential.encode(), digest_size=16, person=kind.encode()).digest()
        return cls(digest, request.resource, request.cost)


class _Entry(NamedTuple):
    response: CheckLimitResponse
    added: int
    expires: int


class DenialCache:
    """At most SIZE denials, each until its `retry_after` has passed, or MAX_AGE if that is sooner."""

    def __init__(self, size: int, max_age: timedelta, clock: Clock) -> None:
        self._size = size
        self._max_age = max_age
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[CacheKey, _Entry] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Decision | None:
        """The denial cached under KEY, its waits shortened by its age. None when there is none, or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.expires:
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            return None
        age = timedelta(microseconds=(now - entry.added) // _MICROSECOND)
        return Decision(entry.response, Origin.CACHE, age)

    def put(self, key: CacheKey, response: CheckLimitResponse) -> None:
        """Cache RESPONSE if it is a denial that ends after a wait."""
        decision = Decision(response, Origin.SERVICE)
        if decision.reason is not Reason.OVER_LIMIT or decision.retry_after is None or decision.allowed:
            return
        now = self._clock()
        wait = min(decision.retry_after, self._max_age) // timedelta(microseconds=1) * _MICROSECOND
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = _Entry(response, now, now + wait)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
