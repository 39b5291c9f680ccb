"""A circuit breaker for each node of the bucket store."""

import asyncio
from collections.abc import Awaitable, Hashable, Sequence
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar, cast

import structlog

from ratelimit_service.buckets.closing import Closing
from ratelimit_service.buckets.health import Watcher
from ratelimit_service.buckets.outcomes import Outcome, outcomes_of, results_of
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import BucketStore, SlowStore, StoreUnavailable

N = TypeVar("N", bound=Hashable)

FAILURES: Final = 2
"""Consecutive failures that open a node's breaker. A single one may be a connection that was reset."""

SLOW: Final = 0.02
"""The default of RATELIMIT_STORE_SLOW, in seconds."""

SLOW_FOR: Final = 0.1
"""Seconds for which each reply of a node is slow before its breaker opens."""

_SLOW_GAP: Final = 1.0  # seconds after which a slow reply no longer belongs to the last one

PROBE_SECONDS: Final = 0.1
"""Between the end of one probe and the start of the next."""

LOG_SECONDS: Final = 10.0
"""Between two breakers that open with a line in the log: one of a node at the edge of being slow opens all the time."""

_log = structlog.stdlib.get_logger(__name__)


class ManagedStore(BucketStore, Protocol):
    """A bucket store that can be pinged without charging anything, and closed."""

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker of a node is open."""
        ...

    async def ping(self) -> None:
        """Succeed if a charge would, on every node. Raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class NodeStore(ManagedStore, Protocol[N]):
    """A bucket store on one or more nodes, which fail independently."""

    def watch(self, watcher: Watcher, /) -> None:
        """Tell WATCHER from now on how the nodes behave."""
        ...

    def node_of(self, charge: Charge, /) -> N:
        """The node that makes this charge, as far as is known."""
        ...

    async def ping_node(self, node: N, /) -> None:
        """Succeed if charges that this node made would succeed, there or on another one. Raises StoreUnavailable."""
        ...


class _Breaker:
    """The state of a node after a failure or a slow reply. It is open while `probing` is set.

    `cause` is that of the last failure. `slow_since` is when replies began to be slow, None if the last one was not,
    `slow_at` when that was last seen, and `reply_seconds` what a slow reply took, 0 if there is none since a failure.
    `opened_at` is when it opened, if the log has that.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.cause: object = None
        self.reason = ""
        self.slow_since: float | None = None
        self.slow_at = 0.0
        self.reply_seconds = 0.0
        self.opened_at: float | None = None
        self.probing: asyncio.Task[None] | None = None


class GuardedStore(Closing, Generic[N]):
    """Passes charges on to the nodes that respond. Charges for a node with an open breaker fail at once; it is probed.

    A breaker opens after FAILURES in a row, and once all replies of the node have taken more than SLOW seconds, as a
    free event loop sees them, for SLOW_FOR. So no caller opens one by a short deadline, by large charges, or by many
    calls. It closes when a probe is answered, and not slowly.

    With a store timeout of T seconds a breaker opens after SLOW + SLOW_FOR without a reply, at most 2 T (3 T when each
    call is large), and closes within T + 0.1 s of the node's return. Belongs to the running loop; close it, or use it
    as `async with`; that closes the store too.
    """

    def __init__(self, store: NodeStore[N], slow: float = SLOW) -> None:
        self._store = store
        self._slow = slow
        self._breakers: dict[N, _Breaker] = {}
        self._open = 0  # breakers
        self._logged_at = -LOG_SECONDS
        self._unlogged = 0  # breakers that opened since then
        store.watch(self)

    @property
    def breaker_open(self) -> bool:
        """Whether the breaker of a node is open."""
        return self._open > 0

    @property
    def watching(self) -> bool:
        """Whether a reply can end what a failure or a slow reply began."""
        return bool(self._breakers)

    def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Awaitable[Sequence[ChargeResult]]:
        """Make each charge or none of it, as the store does. Raises StoreUnavailable and PartlyUnavailable."""
        if not self._open:
            return self._store.charge(charges, deadline)
        if len(charges) == 1:  # without a task for it: when the store is away, all calls come here
            return self._charge_node(self._store.node_of(charges[0]), charges, deadline)
        return self._charge_by_node(charges, deadline)

    async def ping(self) -> None:
        """Succeed if a charge would, on every node. Raises StoreUnavailable, SlowStore if a node is slow."""
        for breaker in self._breakers.values():
            if breaker.probing is not None:
                raise (SlowStore if breaker.reply_seconds else StoreUnavailable)(breaker.reason)
        await self._store.ping()

    async def close(self) -> None:
        """Stop probing and close the store."""
        probes = [breaker.probing for breaker in self._breakers.values() if breaker.probing is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        await self._store.close()

    async def _charge_by_node(self, charges: Sequence[Charge], deadline: float | None) -> Sequence[ChargeResult]:
        by_node: dict[N, list[int]] = {}
        for index, charge in enumerate(charges):
            by_node.setdefault(self._store.node_of(charge), []).append(index)
        calls = [
            self._charge_node(node, [charges[index] for index in indexes], deadline)
            for node, indexes in by_node.items()
        ]
        returned = await asyncio.gather(*calls, return_exceptions=True)
        outcomes: dict[int, Outcome] = {}
        for indexes, value in zip(by_node.values(), returned, strict=True):
            outcomes.update(zip(indexes, outcomes_of(value, len(indexes)), strict=True))
        return results_of([outcomes[index] for index in range(len(charges))])

    async def _charge_node(self, node: N, charges: Sequence[Charge], deadline: float | None) -> Sequence[ChargeResult]:
        breaker = self._breakers.get(node)
        if breaker is not None and breaker.probing is not None:
            raise StoreUnavailable(f"circuit breaker open: {breaker.reason}")
        return await self._store.charge(charges, deadline)

    def answered(self, node: Hashable, seconds: float) -> None:
        """Note a reply. One that is not slow ends what failures and slow replies began, if the breaker is closed."""
        if seconds >= self._slow:
            slow = self._count_slow(cast("N", node), seconds)
            slow.reply_seconds = seconds
            slow.reason = (
                f"answers in {seconds * 1_000:.0f} ms, slower than RATELIMIT_STORE_SLOW ({self._slow * 1_000:g} ms)"
            )
            self._open_if_slow(cast("N", node), slow)
            return
        breaker = self._breakers.get(cast("N", node))
        if breaker is None:
            return
        breaker.slow_since = None
        if breaker.probing is None:
            del self._breakers[cast("N", node)]

    def unanswered(self, node: Hashable, seconds: float) -> None:
        """Note that a reply is slow, however long it will take."""
        if seconds >= self._slow:
            slow = self._count_slow(cast("N", node), seconds)
            if not slow.reply_seconds:
                slow.reason = f"has not replied for {seconds:.2g} s"
            self._open_if_slow(cast("N", node), slow)

    def failed(self, node: Hashable, reason: str, cause: object) -> None:
        """Note a failure, unless it has the cause of the last one."""
        breaker = self._breakers.setdefault(cast("N", node), _Breaker())
        breaker.reason, breaker.reply_seconds = reason, 0.0
        if breaker.cause is not cause:
            breaker.cause = cause
            breaker.failures += 1
        if breaker.failures >= FAILURES:
            self._open_breaker(cast("N", node), breaker)

    def _count_slow(self, node: N, seconds: float) -> _Breaker:
        now = monotonic()
        began = now - seconds + self._slow
        breaker = self._breakers.setdefault(node, _Breaker())
        if breaker.slow_since is None or began < breaker.slow_since or began - breaker.slow_at > _SLOW_GAP:
            breaker.slow_since = began
        breaker.slow_at = now
        return breaker

    def _open_if_slow(self, node: N, breaker: _Breaker) -> None:
        if breaker.slow_since is not None and breaker.slow_at - breaker.slow_since >= SLOW_FOR:
            self._open_breaker(node, breaker)

    def _open_breaker(self, node: N, breaker: _Breaker) -> None:
        if breaker.probing is None:
            self._open += 1
            self._log_open(node, breaker)
            breaker.probing = asyncio.get_running_loop().create_task(self._probe(node, breaker))

    async def _probe(self, node: N, breaker: _Breaker) -> None:
        while True:
            try:
                await self._store.ping_node(node)
            except StoreUnavailable as error:
                breaker.reason, breaker.reply_seconds = str(error), 0.0
            else:
                if breaker.slow_since is None:
                    break
            await asyncio.sleep(PROBE_SECONDS)
        self._open -= 1
        del self._breakers[node]
        if breaker.opened_at is not None:
            seconds = round(monotonic() - breaker.opened_at, 3)
            _log.warning(
                "the breaker of the bucket store has closed: it decides again", node=_name(node), seconds=seconds
            )

    def _log_open(self, node: N, breaker: _Breaker) -> None:
        """Log that a breaker opens, and how many others did since the last line, unless that was a moment ago."""
        now = monotonic()
        if now - self._logged_at < LOG_SECONDS:
            self._unlogged += 1
            return
        breaker.opened_at = self._logged_at = now
        unlogged, self._unlogged = self._unlogged, 0
        _log.warning(
            "the breaker of the bucket store opens: on_store_failure decides",
            node=_name(node),
            reason=breaker.reason,
            others=unlogged,
        )


def _name(node: Hashable) -> str:
    """The address of a node. Empty where there is one for all: the settings have its address."""
    return "" if node is None else str(node)
