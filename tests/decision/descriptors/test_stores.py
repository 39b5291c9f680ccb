"""Descriptor decisions of two servers on a real Postgres, and a real Valkey or a cluster of three nodes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest

from decision.descriptors.world import LOCAL, Descriptor, RuleNode, bucket, describe, node, quota
from fixtures.confirmed import confirmed
from fixtures.valkey import StartValkey
from ratelimit_service.bootstrap import Planes, open_planes
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.decision.descriptors.outcome import RequestDecision
from ratelimit_service.decision.descriptors.request import DescribedRequest
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.limit import Limit as PlanLimit
from ratelimit_service.decision.limit import Quota, TokenBucket, Window
from ratelimit_service.decision.reason import Reason, Source
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.settings import Settings

SECONDS = 2.0
MakeSettings = Callable[[str], Settings]


@pytest.fixture(scope="module")
def make_settings(migrated_database_url: Callable[[], str]) -> MakeSettings:
    """Return a function that makes settings for a Valkey, with a migrated database of their own."""

    def make(redis_url: str) -> Settings:
        database_url = migrated_database_url()
        return Settings(database_url=database_url, redis_url=redis_url, peppers=Peppers.generate())

    return make


@pytest.fixture(scope="module", params=["valkey_url", "redis_cluster"])
async def servers(make_settings: MakeSettings, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Planes, Planes]]:
    """Two servers on the same stores."""
    store = request.getfixturevalue(request.param)
    settings = await asyncio.to_thread(make_settings, store if isinstance(store, str) else store.url)
    settings = settings.model_copy(update={"store_timeout": 1.0, "store_slow": 1.0})  # about exactness, not speed
    async with open_planes(settings, needs_token=False) as one, open_planes(settings, needs_token=False) as two:
        yield one, two


async def put(planes: Planes, domain: str, *nodes: RuleNode) -> None:
    """Replace a domain's rules through this server, and wait until it has them."""
    replaced = await planes.services.rules.replace("ann", DomainRules(domain, nodes))
    await until(lambda: planes.rules.get(domain) is not None)
    assert replaced.domain == domain


async def until(holds: Callable[[], bool], seconds: float = SECONDS) -> float:
    """Wait until HOLDS(), at most SECONDS. Returns how long it took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, f"condition not met after {seconds} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def decide(planes: Planes, domain: str, *descriptors: Descriptor) -> RequestDecision:
    """Decide a request."""
    engine = planes.envoy_rate_limit._engine
    return await engine.decide(await engine.prepare(DescribedRequest(domain, descriptors)))


async def test_one_denied_of_three_charges_none(servers: tuple[Planes, Planes]) -> None:
    """A request with three descriptors of which one is denied charges none, in the store that all servers share."""
    one, two = servers
    await put(one, "three", node("a", "", quota(5, Window.YEAR)), node("b", "", quota(1, Window.YEAR)),
              node("c", "", bucket(9, refill=1)))  # fmt: skip
    await until(lambda: two.rules.get("three") is not None)
    request = (describe(("a", "1")), describe(("b", "1")), describe(("c", "1")))
    assert (await decide(one, "three", *request)).allowed
    await asyncio.sleep(1.1)  # the bucket is full again
    denied = await decide(two, "three", *request)
    assert [status.allowed for status in denied.statuses] == [True, False, True]
    peeks = [describe(*descriptor.entries, hits=0) for descriptor in request]
    left = await decide(one, "three", *peeks)
    assert [status.remaining for status in left.statuses] == [4, 0, 9]
    assert {status.source for status in left.statuses} == {Source.STORE}


async def test_exact_across_servers(servers: tuple[Planes, Planes]) -> None:
    """However many concurrent requests two servers get, no limit is exceeded, and in the end each is used up exactly.

    On a cluster, requests over several nodes that lose a race hold tokens for a moment, so the first wave may get less.
    """
    one, two = servers
    await put(one, "exact", node("a", "", quota(25, Window.YEAR)), node("b", "", quota(40, Window.YEAR)))
    await until(lambda: two.rules.get("exact") is not None)
    a, b = describe(("a", "1")), describe(("b", "1"))
    requests = [(a, b), (b, a), (b,)] * 20
    decisions = await asyncio.gather(
        *(decide((one, two)[index % 2], "exact", *request) for index, request in enumerate(requests))
    )
    allowed = [request for request, decision in zip(requests, decisions, strict=True) if decision.allowed]
    for descriptor, amount in ((a, 25), (b, 40)):
        granted = sum(descriptor in request for request in allowed)
        assert granted <= amount
        left = (await decide(one, "exact", descriptor._replace(hits=0))).statuses[0].remaining
        assert granted + left == amount
        later = [(await decide(two, "exact", descriptor)).allowed for _ in range(left + 1)]
        assert later == [True] * left + [False]


async def test_changes_are_in_force_within_a_second(servers: tuple[Planes, Planes]) -> None:
    """New rules, changed ones and their deletion are in force on every server within a second."""
    one, two = servers
    entry = describe(("a", "1"), hits=0)

    async def seen(wanted: int | None) -> float:
        start = time.monotonic()
        while True:
            status = (await decide(two, "moving", entry)).statuses[0]
            if (status.remaining if status.limit else None) == wanted:
                return time.monotonic() - start
            await asyncio.sleep(0.01)

    for amount in (5, 7, None):
        if amount is None:
            await confirmed(lambda token: one.services.rules.delete("ann", "moving", confirmation=token))
        else:
            await one.services.rules.replace("ann", DomainRules("moving", (node("a", "", quota(amount)),)))
        assert await asyncio.wait_for(seen(amount), SECONDS) < 1.0


async def test_keys_and_rules_in_one_request(servers: tuple[Planes, Planes]) -> None:
    """A key's plan and a domain's rules are charged together or not at all, and share the key's bucket with checks."""
    one, _ = servers
    burst = PlanLimit("burst", TokenBucket(3, 1, 86_400_000_000))
    await one.services.plans.create(
        "ann", PlanDraft(name="tiny", limits=(burst,), on_store_failure=OnStoreFailure.LOCAL, description="")
    )
    _, secret = await one.services.keys.create(
        "ann", KeyDraft(plan="tiny", subject="acme", description="", expires_us=None)
    )
    await put(one, "both", node("a", "", quota(9, Window.YEAR)))
    request = (describe(("api_key", str(secret)), ("resource", "x")), describe(("a", "1")))
    allowed = [(await decide(one, "both", *request)).allowed for _ in range(5)]
    assert allowed == [True, True, True, False, False]
    assert (await decide(one, "both", describe(("a", "1"), hits=0))).statuses[0].remaining == 6


async def test_refund_in_the_store(servers: tuple[Planes, Planes]) -> None:
    """Negative hits refund, and not beyond an untouched bucket."""
    one, _ = servers
    await put(one, "back", node("a", "", quota(5, Window.YEAR)))
    for hits, left in ((4, 1), (-3, 4), (-1_000_000, 5), (6, 0), (5, 0)):
        decision = await decide(one, "back", describe(("a", "1"), hits=hits))
        assert decision.statuses[0].remaining == left
        assert decision.allowed == (hits != 6)


async def test_override_in_the_store(servers: tuple[Planes, Planes]) -> None:
    """A request's own limit is counted in the store, also when its amount and window change."""
    one, _ = servers
    for amount, window, allowed in ((2, Window.YEAR, True), (2, Window.MONTH, True), (2, Window.YEAR, False)):
        decision = await decide(one, "nowhere", describe(("a", "1"), override=Quota(amount, window)))
        assert decision.allowed == allowed


async def test_store_down_and_back(make_settings: MakeSettings, valkey: StartValkey) -> None:
    """While the store is down, decisions follow the rules' `on_store_failure`; once it is back, the store's buckets."""
    server = await asyncio.to_thread(valkey)
    settings = await asyncio.to_thread(make_settings, server.url)
    async with open_planes(settings, needs_token=False) as planes:
        await put(planes, "down", node("a", "", quota(2, Window.YEAR)),
                  node("b", "", quota(2, Window.YEAR), on_store_failure=LOCAL))  # fmt: skip
        assert (await decide(planes, "down", describe(("a", "1")))).allowed
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable) as caught:
                await decide(planes, "down", describe(("a", "1")))
            local = [await decide(planes, "down", describe(("b", "1"))) for _ in range(3)]
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert caught.value.reason == "BUCKET_STORE_UNAVAILABLE"
        assert [decision.allowed for decision in local] == [True, True, False]
        assert {decision.statuses[0].source for decision in local} == {Source.DEGRADED}
        assert local[2].statuses[0].reason is Reason.OVER_LIMIT
        await until(lambda: not planes.buckets.breaker_open, 5.0)
        decision = await decide(planes, "down", describe(("b", "1")))
        assert decision.statuses[0].source is Source.STORE
