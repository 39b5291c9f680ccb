"""The circuit breakers of several nodes: which results calls get, which nodes are probed, when one opens and closes."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from ratelimit_service.buckets.breaker import SLOW, GuardedStore
from ratelimit_service.buckets.health import UNWATCHED, Watcher
from ratelimit_service.decision.charge import Bucket, Charge, ChargeResult, LimitResult
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.ports import PartlyUnavailable, QueueTimeout, SlowStore, StoreUnavailable

LIMIT = Limit("limit", Quota(5, Window.DAY))
MADE = ChargeResult(charged=True, limit_results=(LimitResult(0, 0, 0),))


def made(outcome: ChargeResult | StoreUnavailable) -> bool:
    """Whether a charge was made."""
    return outcome == MADE


class Nodes:
    """A store on as many nodes as a test names: partition 12 is on node 1, as are all from 10 to 19.

    Nodes, and single partitions, are `down` as long as a test says. A charge waits for its `gate`, if it has one. Each
    call is one run for each node. Replies are reported to have taken so many `seconds`.
    """

    breaker_open = False

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.partitions_down: set[int] = set()
        self.gates: dict[int, asyncio.Event] = {}
        self.probes: list[int] = []
        self.overloaded = False
        self.short_of_time = False
        self.seconds = 0.0
        self.watcher: Watcher = UNWATCHED

    def watch(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def node_of(self, charge: Charge) -> int:
        return charge.buckets[0].partition // 10

    async def charge(self, charges: Sequence[Charge], deadline: float | None = None) -> Sequence[ChargeResult]:  # noqa: ARG002
        for charge in charges:
            if charge.buckets[0].partition in self.gates:
                await self.gates[charge.buckets[0].partition].wait()
        if self.overloaded:
            raise QueueTimeout("timed out in the queue", deadline=False)
        if self.short_of_time:
            raise StoreUnavailable("no reply in time", sent=True)
        results = [StoreUnavailable("down") if self._is_down(charge) else MADE for charge in charges]
        down = {self.node_of(charge) for charge in charges if self._is_down(charge)}
        for node in {self.node_of(charge) for charge in charges}:
            if node in down:
                self.watcher.failed(node, "down", object())
            else:
                self.watcher.answered(node, self.seconds)
        if all(map(made, results)):
            return [MADE] * len(charges)
        raise PartlyUnavailable("down", results) if any(map(made, results)) else StoreUnavailable("down")

    async def ping(self) -> None:
        if self.down:
            raise StoreUnavailable("down")

    async def ping_node(self, node: int) -> None:
        self.probes.append(node)
        if node in self.down:
            raise StoreUnavailable("down")
        self.watcher.answered(node, self.seconds)

    async def close(self) -> None:
        pass

    def _is_down(self, charge: Charge) -> bool:
        return self.node_of(charge) in self.down or charge.buckets[0].partition in self.partitions_down


def on(*partitions: int) -> list[Charge]:
    """A charge in each of these partitions."""
    return [Charge((Bucket(f"b{partition}", partition, LIMIT),), (1,)) for partition in partitions]


async def fail(store: GuardedStore[int], *partitions: int) -> None:
    """Let these charges fail."""
    with pytest.raises(StoreUnavailable):
        await store.charge(on(*partitions))


async def test_what_a_node_charged_in_part_is_reported() -> None:
    """When some charges of one node fail, beside those of another node, the others have their results."""
    nodes = Nodes()
    nodes.partitions_down = {11}
    async with GuardedStore(nodes) as store:
        await fail(store, 11)
        with pytest.raises(PartlyUnavailable) as error:
            await store.charge(on(10, 11, 20))
    assert [made(result) for result in error.value.results] == [True, False, True]


async def test_a_breaker_closes_while_another_node_is_down() -> None:
    """Of two nodes that were down, the one that responds again is used, although the other one is down still."""
    nodes = Nodes()
    nodes.down = {1, 2}
    async with GuardedStore(nodes) as store:
        for _ in range(2):
            await fail(store, 10, 20)
        nodes.down = {2}
        await asyncio.sleep(0.3)
        assert await store.charge(on(10)) == [MADE]
        assert store.breaker_open
        await fail(store, 20)


async def test_a_late_success_leaves_the_breaker_open() -> None:
    """A reply to a call from before the failures does not close the breaker; only a probe does."""
    nodes = Nodes()
    nodes.gates[19] = asyncio.Event()
    async with GuardedStore(nodes) as store:
        nodes.partitions_down = {10}
        await fail(store, 10)
        late = asyncio.ensure_future(store.charge(on(19)))
        await asyncio.sleep(0)
        nodes.down = {1}
        await fail(store, 10)
        await asyncio.sleep(0)
        assert store.breaker_open
        nodes.down, nodes.partitions_down = set(), set()
        nodes.gates[19].set()
        assert await late == [MADE]
        assert store.breaker_open
        await asyncio.sleep(0.3)
        assert not store.breaker_open


async def test_a_node_is_probed_once_at_a_time() -> None:
    """However many calls to a node fail at once, it has one probe, every 100 ms."""
    nodes = Nodes()
    nodes.down = {1}
    nodes.gates[10] = asyncio.Event()
    async with GuardedStore(nodes) as store:
        calls = asyncio.gather(*(store.charge(on(10)) for _ in range(20)), return_exceptions=True)
        await asyncio.sleep(0)
        nodes.gates[10].set()
        await calls
        await asyncio.sleep(0.05)
        assert nodes.probes == [1]


@pytest.mark.parametrize("cause", ["overloaded", "short_of_time"])
async def test_what_shows_nothing_opens_no_breaker(cause: str) -> None:
    """Calls whose turn did not come, or that had too little time, are no failure of a node, alone or beside one."""
    nodes = Nodes()
    setattr(nodes, cause, True)
    async with GuardedStore(nodes) as store:
        for _ in range(5):
            await fail(store, 1)
        setattr(nodes, cause, False)
        nodes.down.add(1)
        await fail(store, 11)
        setattr(nodes, cause, True)
        for _ in range(5):
            await fail(store, 11)
        assert not store.breaker_open


async def test_one_cause_is_one_failure() -> None:
    """However many calls fail by one connection, they are one failure, and the next one is the second."""
    async with GuardedStore(Nodes()) as store:
        connection = object()
        for _ in range(5):
            store.failed(1, "lost", connection)
        assert not store.breaker_open
        store.failed(1, "lost", object())
        assert store.breaker_open


async def test_replies_that_stay_slow_open_the_breaker() -> None:
    """After a tenth of a second in which none was fast; and a fast one closes it, others do not."""
    nodes = Nodes()
    async with GuardedStore(nodes) as store:
        nodes.seconds = 2 * SLOW
        for _ in range(2):
            await store.charge(on(10))
            assert not store.breaker_open
        await asyncio.sleep(0.06)
        nodes.seconds = 0
        await store.charge(on(10))
        nodes.seconds = 2 * SLOW
        await store.charge(on(10))
        await asyncio.sleep(0.06)
        await store.charge(on(10))
        assert not store.breaker_open
        await asyncio.sleep(0.06)
        await store.charge(on(10))
        assert store.breaker_open
        assert await store.charge(on(20)) == [MADE]
        await fail(store, 10)
        await asyncio.sleep(0.25)
        assert store.breaker_open
        assert set(nodes.probes) == {1}
        nodes.seconds = 0
        await asyncio.sleep(0.25)
        assert await store.charge(on(10)) == [MADE]
        assert not store.breaker_open


async def test_a_slow_node_is_reported_as_such() -> None:
    """A ping says what replies take; the log has when the breaker opens and closes, but not again at once."""
    nodes = Nodes()
    with capture_logs() as logs:
        async with GuardedStore(nodes) as store:
            for _ in range(2):
                nodes.seconds = 0.052
                for _ in range(3):
                    store.answered(1, nodes.seconds)
                    await asyncio.sleep(0.06)
                with pytest.raises(SlowStore, match=r"^answers in 52 ms, slower than RATELIMIT_STORE_SLOW \(20 ms\)$"):
                    await store.ping()
                nodes.seconds = 0
                while store.breaker_open:  # noqa: ASYNC110  it reports nothing
                    await asyncio.sleep(0.01)
    assert [line["event"].partition(":")[0] for line in logs] == [
        "the breaker of the bucket store opens",
        "the breaker of the bucket store has closed",
    ]
    assert (logs[0]["node"], logs[0]["reason"][:17], logs[0]["others"]) == ("1", "answers in 52 ms,", 0)


async def test_a_node_that_fails_is_not_slow() -> None:
    """Once a slow node answers no more, a ping says that."""
    nodes = Nodes()
    async with GuardedStore(nodes) as store:
        store.unanswered(1, SLOW + 0.2)
        with pytest.raises(StoreUnavailable, match=r"^has not replied for 0.22 s$") as caught:
            await store.ping()
        assert not isinstance(caught.value, SlowStore)
        store.answered(1, 0.3)
        with pytest.raises(SlowStore):
            await store.ping()
        nodes.down.add(1)
        await asyncio.sleep(0.15)
        with pytest.raises(StoreUnavailable, match=r"^down$") as caught:
            await store.ping()
        assert not isinstance(caught.value, SlowStore)


async def test_silence_is_slow() -> None:
    """A node that does not reply at all opens its breaker by that alone."""
    async with GuardedStore(Nodes()) as store:
        store.unanswered(1, SLOW / 2)
        assert not store.watching
        store.unanswered(1, SLOW + 0.05)
        assert not store.breaker_open
        store.unanswered(1, SLOW + 0.11)
        assert store.breaker_open
