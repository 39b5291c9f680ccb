"""What Envoys are assigned, and when: on servers with stores in memory, in a time that the test advances."""

import pytest

from decision.assignments.world import STEP, Envoy, World, taken
from decision.descriptors.world import ALLOW, BLOCKED, DENY, LOCAL, SHADOW, UNLIMITED, bucket, node, quota
from ratelimit_service.decision.assignments import subscriptions
from ratelimit_service.decision.assignments.allocator import IDLE_SECONDS
from ratelimit_service.decision.assignments.sharing import REST_WATCH, SLOW_WATCH, WATCH
from ratelimit_service.decision.assignments.subscriptions import Assignment, Usage
from ratelimit_service.decision.assignments.terms import Strategy
from ratelimit_service.decision.charge import Charge
from ratelimit_service.decision.descriptors.rules import RuleLimit, RuleOnStoreFailure
from ratelimit_service.decision.limit import Window
from ratelimit_service.decision.ports import Change, ChangeKind

RATE, CAPACITY = 200, 100
LIMIT = bucket(CAPACITY, RATE)
INTERVAL = 10
SEARCH = (("part", "search"),)


async def world(*limits: RuleLimit, servers: int = 1, failure: RuleOnStoreFailure | None = None) -> World:
    """Servers with these limits on {part: search}."""
    return await World(node("part", "search", *(limits or (LIMIT,))), servers=servers, on_store_failure=failure).begin()


def share(tokens: int, burst: int, ttl: int = 15, envoy: Envoy | None = None) -> Assignment:
    """The assignment of a share."""
    return Assignment(envoy.id if envoy else b"", Strategy.TOKEN_BUCKET, ttl, tokens, INTERVAL, burst)


async def test_shares_follow_the_demand_and_are_sent_when_they_change() -> None:
    """All for the first, equal parts for two, then by demand; what stays as it is is renewed for a minute."""
    running = await world()
    first = running.envoy(demand=0.1)
    await running.run(16)
    assert first.received[0] == share(2_000, 100, envoy=first)
    second = running.envoy(demand=1_000)
    await running.run(0.1)
    assert [first.units, second.units] == [1_000, 1_000]
    assert first.assignment is not None
    assert first.assignment.burst == 50
    await running.run(6)
    assert first.units < 80
    assert second.units > 1_900
    second.demand = first.demand = 0
    await running.run(12)
    count = len(first.received)
    await running.run(60)
    assert [each.ttl for each in first.received[count:]] == [60, 60]
    assert first.expires > running.now()
    assert first.units == 1_000


@pytest.mark.parametrize("later", [0.25, 0.5, 0.75])
async def test_shares_are_renewed_before_they_end(later: float) -> None:
    """In whichever part of a second they were sent."""
    running = await world()
    first = running.envoy(demand=10)
    await running.run(6 + later)
    running.envoy(demand=10)  # so that both get another share now
    await running.run(1)
    for _ in range(round(70 / STEP)):
        await running.step()
        assert all(envoy.expires > running.now() for envoy in running.envoys)
    assert first.received[-1].ttl == 60


async def test_servers_share() -> None:
    """Envoys at different servers have no more together than those at one, within a tenth of a second."""
    running = await world(servers=3)
    envoys = [running.envoy(demand=100, server=server) for server in range(3)]
    for _ in range(20):
        await running.step()
        assert running.applied() <= 2_000
    assert [envoy.units for envoy in envoys] == [666] * 3


@pytest.mark.parametrize(
    ("limit", "strategy"),
    [
        (UNLIMITED, Strategy.ALLOW_ALL),
        (BLOCKED, Strategy.DENY_ALL),
        (bucket(10, mode=SHADOW), Strategy.ALLOW_ALL),
        (bucket(10, overdraft=5), Strategy.DENY_ALL),
        (quota(10, Window.DAY, overdraft=5), Strategy.DENY_ALL),
        (quota(10, Window.SECOND), Strategy.TOKEN_BUCKET),
    ],
)
async def test_limits_that_are_no_shares(limit: RuleLimit, strategy: Strategy) -> None:
    """Unlimited and shadow limits let all pass; blocked ones none, nor those with an overdraft."""
    running = await world(limit)
    envoy = running.envoy(demand=10)
    await running.run(1)
    assert [(each.strategy, each.ttl) for each in envoy.received] == [(strategy, 15)]
    await running.run(75)
    assert {each.strategy for each in envoy.received} == {strategy}
    assert envoy.expires > running.now()


async def test_buckets_without_a_rule_and_out_of_bounds() -> None:
    """The former pass, as descriptors do; the latter are denied."""
    running = await world()
    other = running.envoy(demand=10, part="other")
    await running.run(1)
    assert [each.strategy for each in other.received] == [Strategy.ALLOW_ALL]
    with running.servers[0].stream() as stream:
        running.servers[0].begin(stream, "shop")
        running.servers[0].subscribe(stream, Usage(b"x", 0, 1, carried=False), None)
        assert [each.strategy for each in await taken(stream)] == [Strategy.DENY_ALL]


async def test_new_rules_are_followed() -> None:
    """Within a second, on every stream: other limits, none, and one of another interval."""
    running = await world()
    envoy, idle = running.envoy(demand=50), running.envoy(demand=50, part="none")
    await running.run(7)
    for limits, expected in (
        ((bucket(10, 100),), (Strategy.TOKEN_BUCKET, 1_000, 10)),
        ((bucket(10, 10),), (Strategy.TOKEN_BUCKET, 1_000, 100)),
        ((BLOCKED,), (Strategy.DENY_ALL, 0, 1)),
        ((), (Strategy.ALLOW_ALL, 0, 1)),
        ((LIMIT,), (Strategy.TOKEN_BUCKET, 2_000, 10)),
    ):
        await running.replace(node("part", "search", *limits))
        await running.run(1.5)
        last = envoy.received[-1]
        assert last.strategy is expected[0], limits
        if last.strategy is Strategy.TOKEN_BUCKET:
            assert last.tokens / last.interval == expected[1] / expected[2] or limits != (LIMIT,)
    assert [each.ttl for each in idle.received] == [15, 60]
    await running.rules.apply([Change(ChangeKind.DOMAIN, "other")])
    assert running.servers[0].buckets == 2


async def test_a_bucket_of_another_interval_is_another_for_envoy() -> None:
    """Which takes buckets with the same tokens for the same, whatever the seconds are."""
    running = await world(bucket(10, 100))
    envoy = running.envoy(demand=1)
    await running.run(1)
    await running.replace(node("part", "search", bucket(10, 10)))
    await running.run(1.5)
    before, after = envoy.received
    assert (before.tokens, before.interval, before.burst) == (1_000, 10, 10)
    assert (after.tokens, after.interval, after.burst) == (6_000, 600, 10)
    await running.replace(node("part", "search", bucket(10, 600)))
    await running.run(1.5)
    last = envoy.received[-1]
    assert (last.tokens, last.interval, last.burst) == (6_000, 10, 9)


async def test_what_was_spent_is_charged_evenly() -> None:
    """So that checks see it: in the seconds after it was reported, to each limit, and it counts as usage."""
    running = await world(bucket(1_000, 100, name="rate"), quota(5_000, Window.DAY, name="day", mode=SHADOW))
    running.envoy(demand=50)
    await running.run(5.1)
    reported = running.servers[0].reported["allowed"]
    rule = running.rules.get("shop")
    assert rule is not None
    buckets = rule.match(SEARCH).buckets
    charged = []
    for _ in range(5):
        await running.run(1)
        (day,) = await running.buckets.charge([Charge(buckets[1:], (0,))])
        charged.append(5_000 - day.limit_results[0].remaining // 1_000_000)
    assert charged[0] == reported  # of a quota, nothing drains: at once
    rate = running.servers[0].payments.charged - charged[-1]
    assert reported - 2 <= rate <= reported + 60
    series = rule.match(SEARCH).series
    await running.run(5)
    rows = [row.counts for row in running.usage.take(99) if row.field == series.field]
    allowed, denied = running.servers[0].reported.values()
    assert [sum(counts[0] for counts in rows), sum(counts[2] for counts in rows)] == [allowed, denied]
    assert allowed > 200


async def test_a_quota_is_spent_and_begins_anew() -> None:
    """Ever less of it is assigned, never more than it has left; then nothing, until the next window."""
    running = await world(quota(600, Window.MINUTE))
    running.clock.time_us += 60_000_000 - running.clock.time_us % 60_000_000
    envoy = running.envoy(demand=30)
    await running.run(58)
    assert 570 <= len(envoy.passed) <= 600
    rates = [each.tokens for each in envoy.received if each.strategy is Strategy.TOKEN_BUCKET]
    assert rates == sorted(rates, reverse=True)
    await running.run(6)
    assert envoy.received[-1].tokens > rates[-1]


async def test_a_stream_that_is_cut_goes_on_at_another_server() -> None:
    """With the share that its Envoy has applied all the time; nobody is given it meanwhile."""
    running = await world(servers=2)
    moved, other = running.envoy(demand=100), running.envoy(demand=100, server=1)
    await running.run(7)
    assert moved.units + other.units == 1_999
    moved.disconnect()
    moved._server = 1
    for _ in range(110):
        await running.step()
        assert running.applied() <= 2_000
        assert moved.units >= 900
    assert moved.subscriber is not None
    assert moved.expires > running.now()


async def test_who_has_gone_leaves_its_share() -> None:
    """After the time in which an Envoy opens another stream."""
    running = await world()
    leaving, other = running.envoy(demand=100), running.envoy(demand=1_000)
    await running.run(7)
    running.envoys.remove(leaving)
    leaving.disconnect()
    await running.run(5)
    assert other.units < 2_000
    await running.run(9)
    assert other.units == 2_000


async def test_a_server_that_is_killed() -> None:
    """Its Envoys apply what they have until that ends, and get as much from another server then."""
    running = await world(servers=2)
    killed, other = running.envoy(demand=400), running.envoy(demand=400, server=1)
    await running.run(7)
    assert [killed.units, other.units] == [1_000, 1_000]
    running.dead.add(0)
    killed.kill()
    gap = 0
    for _ in range(round(40 / 0.05)):
        await running.step()
        assert running.applied() <= 2_000
        gap += killed.expires <= running.now()
    assert gap * 0.05 <= 7.5
    assert 900 <= killed.units <= 1_100


async def test_a_store_that_lost_all() -> None:
    """Whoever comes first does not get what others hold, and a minute later all is as before."""
    running = await world(servers=2)
    envoys = [running.envoy(demand=100, server=server) for server in range(2)]
    await running.run(7)
    running.shares.states.clear()
    late = running.envoy(demand=100)
    for _ in range(200):
        await running.step()
        assert running.applied() <= 2_000
    assert running.applied() >= 1_997
    assert all(600 < envoy.units < 733 for envoy in (*envoys, late))


@pytest.mark.parametrize(
    ("failure", "strategy"),
    [(None, None), (LOCAL, Strategy.TOKEN_BUCKET), (ALLOW, Strategy.ALLOW_ALL), (DENY, Strategy.DENY_ALL)],
)
async def test_while_the_store_is_away(failure: RuleOnStoreFailure | None, strategy: Strategy | None) -> None:
    """What `on_store_failure` says: shares end, are renewed, or all pass or none; afterwards all is as before."""
    running = await world(failure=failure)
    envoy = running.envoy(demand=50)
    await running.run(7)
    running.shares.down = running.buckets.down = True
    await running.run(30)
    holds = envoy.expires > running.now()
    assert (envoy.received[-1].strategy if holds else None) is strategy
    assert running.applied() <= 2_000
    running.shares.down = running.buckets.down = False
    await running.run(6)
    assert (envoy.units, envoy.expires > running.now()) == (2_000, True)
    await running.run(20)
    payments = running.servers[0].payments
    assert payments.charged + payments.forgotten <= len(envoy.passed) < payments.charged + payments.forgotten + 600
    assert payments.forgotten > 0  # it would have drained meanwhile


async def test_a_store_that_was_away_has_kept_a_share() -> None:
    """For as long as it was renewed, but its Envoy has something else: it is sent its share with the next report."""
    running = await world(failure=DENY)
    envoy = running.envoy(demand=10)
    await running.run(16)
    assert envoy.received[-1] == share(2_000, 100, 60, envoy)
    running.shares.down = True
    await running.run(41)
    assert envoy.received[-1].strategy is Strategy.DENY_ALL
    running.shares.down = False
    await running.run(6)
    assert envoy.received[-1] == share(2_000, 100, envoy=envoy)


async def test_buckets_that_are_not_used_are_forgotten() -> None:
    """Envoy would keep and report them for ever. The next request asks again."""
    running = await world()
    envoy = running.envoy(demand=100)
    await running.run(1)
    envoy.demand = 0
    await running.run(IDLE_SECONDS + 45)
    assert envoy.received[-1].strategy is None
    assert running.servers[0].buckets == 0
    assert running.shares.states == {}
    envoy.demand = 1
    await running.run(5)
    assert envoy.units == 2_000


async def test_a_bucket_that_is_not_reported_any_more() -> None:
    """Envoy has forgotten it, as it was asked to while a report was on its way: it holds nothing."""
    running = await world()
    allocator = running.servers[0]
    with allocator.stream() as stream:
        allocator.begin(stream, "shop")
        allocator.subscribe(stream, Usage(b"x", 0, 1, carried=True), dict(SEARCH))
        await running.run(1)
        assert len(running.shares.states) == 1
        await running.run(65)
        assert allocator.buckets == 0
        assert running.shares.states == {}


async def test_a_stream_has_so_many_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more, and of ids that are too long together, Envoy forgets those that were not used for the longest."""
    running = await World(node("user", "", LIMIT)).begin()
    monkeypatch.setattr(subscriptions, "MAX_BUCKETS", 3)
    allocator = running.servers[0]
    with allocator.stream() as stream:
        allocator.begin(stream, "shop")
        for user in "abc":
            allocator.subscribe(stream, Usage(user.encode(), 0, 1, carried=False), {"user": user})
        allocator.report(stream, b"a", 1, 0)
        allocator.subscribe(stream, Usage(b"d", 0, 1, carried=False), {"user": "d"})
        await running.run(0.2)
        sent = {each.bucket: each.strategy for each in await taken(stream)}
        assert sent == {b"b": None} | dict.fromkeys((b"a", b"c", b"d"), Strategy.TOKEN_BUCKET)
        monkeypatch.setattr(subscriptions, "MAX_BUCKET_BYTES", 1_000)
        allocator.subscribe(stream, Usage(b"e" * 960, 0, 1, carried=False), {"user": "e"})
        assert list(stream.subscriptions) == [b"e" * 960]
    assert allocator.streams == 0


async def test_announcements_are_read_less_often_at_rest() -> None:
    """Once no request was reported twice in a row; again as often with the next one."""
    running = await world()
    sharing = running.servers[0].sharing
    assert sharing.pause == SLOW_WATCH
    envoy = running.envoy(demand=100)
    await running.run(8)
    assert sharing.pause == WATCH
    envoy.demand = 0
    await running.run(18)
    assert sharing.pause == REST_WATCH
    envoy.demand = 100
    await running.run(6)
    assert sharing.pause == WATCH


async def test_values_that_share_a_limit() -> None:
    """Two buckets of one limit have no more together than one."""
    running = await World(node("path", "/v1/*", LIMIT, share_threshold=True)).begin()
    one, other = running.envoy(demand=10, path="/v1/a"), running.envoy(demand=10, path="/v1/b")
    await running.run(1)
    assert [one.units, other.units] == [1_000, 1_000]


async def test_streams_end_in_an_orderly_way() -> None:
    """When a server ends, the shares of its streams are given up, and what was spent is charged where there is room."""
    running = await world(bucket(1_000, 200), servers=2)
    envoy = running.envoy(demand=100)
    await running.run(5.2)
    reported = running.servers[0].reported["allowed"]
    envoy.disconnect()
    await running.servers[0].finish()
    assert running.servers[0].payments.charged == reported
    running.shares.down = True
    with running.servers[1].stream() as stream:
        running.servers[1].begin(stream, "shop")
        running.servers[1].subscribe(stream, Usage(b"x", 0, 1, carried=False), dict(SEARCH))
    await running.servers[1].finish()  # without a store it ends all the same
