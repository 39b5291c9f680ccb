"""What StreamRateLimitQuotas does, on any transport."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final

from ratelimit_service.api.authentication import Caller, Role, require, require_known
from ratelimit_service.api.envoy_rlqs.encoder import encode_assignments
from ratelimit_service.api.envoy_rlqs.reader import (
    MAX_CALLS,
    BucketUsage,
    entries_of,
    is_answerable,
    name_of,
    read_bucket,
    read_reports,
)
from ratelimit_service.decision.assignments.allocator import Allocator
from ratelimit_service.decision.assignments.subscriptions import Subscriber, Usage
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable

MAX_STREAMS: Final = 2_000
"""Streams that one process keeps open at a time. An Envoy has one for each domain."""

MAX_CALLER_STREAMS: Final = 500
"""The same for one caller."""

MAX_ACTIONS: Final = 500
"""Assignments in one message: Envoy copies all that it has for each."""

USAGES_A_SECOND: Final = 20_000
"""Buckets of one stream that are read in a second. What reports more waits in the transport."""

_PAUSE: Final = 0.005
"""Seconds between two messages of assignments on one stream, in which more gather."""

_CHUNK: Final = 200
"""Buckets that are read before others get their turn."""

_NEW: Final = 20
"""A bucket that its stream did not have yet takes as long as so many others."""


class EnvoyQuotaService:
    """StreamRateLimitQuotas. Every error that it raises is a ServiceError, and ends a stream.

    None is raised for what clients of an Envoy have sent: a bucket that is out of bounds is denied, and one that cannot
    be answered is left to what Envoy does without an assignment.
    """

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._open: Counter[str] = Counter()
        self._turn = asyncio.Lock()
        self.messages = 0
        """Reports so far, of any number of buckets."""
        self.unanswered = 0
        """Reports so far of buckets that Envoy could not read the answer of."""

    @contextmanager
    def open(self, caller: Caller) -> Iterator["QuotaStream"]:
        """Serve one more stream of CALLER until the block ends. Raises PermissionDenied, Unavailable."""
        require_known(caller)
        require(caller, Role.GATEWAY)
        if self._open.total() >= MAX_STREAMS or self._open[caller.name] >= MAX_CALLER_STREAMS:
            raise Unavailable(
                f"more than {MAX_STREAMS} streams of quotas are open here, or {MAX_CALLER_STREAMS} of this caller; an "
                "Envoy needs one for each domain",
                reason="TOO_MANY_AT_ONCE",
            )
        self._open[caller.name] += 1
        try:
            with self._allocator.stream() as subscriber:
                yield QuotaStream(self, self._allocator, subscriber, self._turn)
        finally:
            self._open[caller.name] -= 1
            if not self._open[caller.name]:
                del self._open[caller.name]


class QuotaStream:
    """One stream: takes reports, and has assignments."""

    def __init__(
        self, service: EnvoyQuotaService, allocator: Allocator, subscriber: Subscriber, turn: asyncio.Lock
    ) -> None:
        """TURN is held by the stream whose report is read."""
        self._service = service
        self._allocator = allocator
        self._subscriber = subscriber
        self._turn = turn
        self._paid_until = monotonic()

    async def report(self, messages: Sequence[bytes], ended: "asyncio.Future[None]") -> None:
        """Take messages with a RateLimitQuotaUsageReports each.

        Raises InvalidArgument, Unavailable, and what ENDED fails with.
        """
        for data in messages:
            async with self._turn:
                usages = await self._read(data)
            now = monotonic()
            self._paid_until = max(self._paid_until, now - 1) + usages / USAGES_A_SECOND
            if self._paid_until > now:
                await asyncio.wait((ended,), timeout=self._paid_until - now)
            if ended.done():
                ended.result()

    async def responses(self) -> bytes:
        """Wait for assignments. Returns a RateLimitQuotaResponse with them, to be sent before the next is asked for."""
        taken = await self._subscriber.take(MAX_ACTIONS)
        return encode_assignments(taken)

    async def pause(self) -> None:
        """Wait between two responses."""
        await asyncio.sleep(_PAUSE)

    async def _read(self, data: bytes) -> int:
        subscriber, allocator = self._subscriber, self._allocator
        domain, usages = read_reports(data, subscriber.domain)
        self._service.messages += 1
        if not subscriber.domain:
            try:
                allocator.begin(subscriber, domain)
            except StoreUnavailable as error:
                raise Unavailable(str(error), reason="POLICY_STORE_UNAVAILABLE") from error
        work = 0
        for usage in usages:
            work += 1
            allowed, denied = usage.num_requests_allowed, usage.num_requests_denied
            if allowed or denied:
                allowed, denied = min(allowed, MAX_CALLS), min(denied, MAX_CALLS)
            if not allocator.report(subscriber, usage.bucket_id, allowed, denied):
                work += _NEW
                self._begin(usage, allowed, denied)
            if work >= _CHUNK:
                work = 0
                await asyncio.sleep(0)
        return len(usages)

    def _begin(self, reported: BucketUsage, allowed: int, denied: int) -> None:
        """Take what is reported of a bucket whose id did not come like this before: it may be in another order."""
        bucket_id = read_bucket(reported.bucket_id)
        bucket = name_of(bucket_id)
        if self._allocator.report(self._subscriber, bucket, allowed, denied):
            return
        if is_answerable(bucket_id):
            usage = Usage(bucket, allowed, denied, reported.time_elapsed.seconds > 0)
            self._allocator.subscribe(self._subscriber, usage, entries_of(bucket_id))
        else:
            self._service.unanswered += 1
