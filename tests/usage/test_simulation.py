"""What-if on a real Postgres: which counts are replayed, and what is reported."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from fixtures.control_plane import DAY, SECOND, START, ControlPlane, key_draft, plan_draft
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect, microseconds
from ratelimit_service.decision.limit import Counting, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.limit import Level as LimitLevel
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import InvalidArgument, NotFound, Unavailable
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.usage.query import Counts
from ratelimit_service.usage.query_range import Level
from ratelimit_service.usage.replay import Effect
from ratelimit_service.usage.simulation import MAX_WAITING, Simulation, SimulationRequest

NOW = datetime.fromtimestamp(START // SECOND, UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def usage(database_url: str) -> Iterator[UsageWriter]:
    """Writes counts of the last days."""
    with connect(database_url) as connection:
        add_partitions(connection, NOW - timedelta(days=40), 42)
        connection.commit()
        yield UsageWriter(connection)


def acme(key: str = "k1", resource: str = "orders", plan: str = "free", subject: str = "acme") -> Series:
    """A series of a key."""
    return Series(key, resource, subject, plan)


def calls(minute: datetime, allowed: int, series: Series | None = None, denied: int = 0) -> Counted:
    """Calls in one minute, each of cost 1."""
    return Counted(
        minute, series or acme(), Counts(allowed, denied, allowed), (("burst", denied, 0),) if denied else ()
    )


def request(*limits: Limit, since: timedelta = 24 * HOUR, top: int = 0) -> SimulationRequest:
    """Try these limits on the plan free."""
    return SimulationRequest("free", limits, microseconds(NOW - since), None, top)


async def test_a_daily_quota_is_exact(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Today's calls beyond the quota would have been denied, those of this morning before the range counted first."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(TODAY + MINUTE, 60), calls(NOW - 30 * MINUTE, 70), calls(NOW - 10 * MINUTE, 5)])
    found = await control_plane.simulations.simulate(request(Limit("daily", Quota(100, Window.DAY)), since=HOUR))
    assert found.effect == Effect(calls=75, denied=0, best=35, worst=35)
    assert [(key.key_id, key.effect.best, key.first_time) for key in found.keys] == [("k1", 35, True)]
    assert (found.level, found.complete, found.keys_replayed, found.first_time) == (Level.MINUTE, True, 1, 1)
    assert sum(point.effect.worst for point in found.points) == 35


async def test_a_burst_has_two_bounds(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Sixty calls a minute fit a bucket of 10 with a token a second if spread, and are mostly denied if in bursts."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(NOW.replace(second=0) - (10 - number) * MINUTE, 60) for number in range(4)])
    found = await control_plane.simulations.simulate(request(Limit("burst", TokenBucket(10, 1, SECOND))))
    assert (found.effect.calls, found.effect.best) == (240, 0)
    assert 100 < found.effect.worst <= 230
    assert "worst" in found.notes[0]


async def test_keys_of_a_subject_share_a_bucket_and_a_key_override_has_its_own(
    control_plane: ControlPlane, usage: UsageWriter
) -> None:
    """Two keys of a subject use up one quota; a third with an override of its own does not touch it."""
    await control_plane.plans.create("ada", plan_draft())
    keys = [(await control_plane.keys.create("ada", key_draft()))[0].key_id for _ in range(3)]
    first, second, third = keys
    quota = Limit("daily", Quota(100, Window.DAY))
    large = Override(Limit("daily", Quota(1_000, Window.DAY)))
    await control_plane.overrides.set("ada", OverrideTarget(LimitLevel.KEY, third), large)
    usage.write([calls(NOW - HOUR, 70, acme(key)) for key in keys])
    found = await control_plane.simulations.simulate(request(quota, since=2 * HOUR))
    assert found.effect == Effect(calls=210, denied=0, best=40, worst=40)
    assert {key.key_id: (key.effect.best, key.effect.worst) for key in found.keys} == {
        first: (0, 40),
        second: (0, 40),
    }


async def test_an_override_is_honoured_until_it_expires(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """A subject's larger limit applies to calls before its expiry, the plan's to those after."""
    await control_plane.plans.create("ada", plan_draft())
    until = NOW - HOUR
    override = Override(Limit("hourly", Quota(1_000, Window.HOUR)), microseconds(until))
    control_plane.clock.us = microseconds(until - 2 * HOUR)
    await control_plane.overrides.set("ada", OverrideTarget(LimitLevel.SUBJECT, "acme"), override)
    control_plane.clock.us = START
    usage.write([calls(until - 30 * MINUTE, 500), calls(until + MINUTE, 500)])
    found = await control_plane.simulations.simulate(request(Limit("hourly", Quota(100, Window.HOUR)), since=5 * HOUR))
    assert 400 <= found.effect.worst <= 500
    assert found.points[0].effect.worst == 0
    assert sum(point.effect.worst for point in found.points if point.start_us < microseconds(until)) == 0


async def test_what_no_limit_decided_is_left_out(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Calls of a revoked key are not attempts, denials by a limit are; those of other plans and rules are not read."""
    await control_plane.plans.create("ada", plan_draft())
    minute = NOW - HOUR
    usage.write(
        [
            Counted(minute, acme(), Counts(10, 25, 10), (("burst", 5, 0), ("KEY_REVOKED", 20, 0))),
            calls(minute, 99, acme(plan="pro")),
            Counted(minute, Series(domain="edge", rule="path"), Counts(99, 0, 99)),
        ]
    )
    found = await control_plane.simulations.simulate(
        request(Limit("burst", TokenBucket(1_000, 1, SECOND)), Limit("seen", Quota(3, Window.DAY), mode=Mode.SHADOW))
    )
    assert found.effect == Effect(calls=15, denied=5, best=0, worst=0)
    assert [(limit.name, limit.shadow, limit.effect) for limit in found.limits] == [
        ("burst", False, Effect(15, 5, 0, 0)),
        ("seen", True, Effect(15, 0, 12, 12)),
    ]


async def test_a_long_range_is_replayed_by_hours(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Beyond 7 days hours are replayed, for which a daily quota is exact as well."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(NOW - timedelta(days=days), 120) for days in range(1, 30)])
    found = await control_plane.simulations.simulate(
        request(Limit("daily", Quota(100, Window.DAY)), since=timedelta(days=30))
    )
    assert (found.level, found.step_us, len(found.points)) == (Level.HOUR, 6 * 3_600 * SECOND, 121)
    assert found.effect == Effect(calls=29 * 120, denied=0, best=29 * 20, worst=29 * 20)


async def test_costs_are_means(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """A denied call is taken to cost what the allowed ones did on average."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([Counted(NOW - HOUR, acme(), Counts(10, 10, 50), (("burst", 10, 0),))])
    found = await control_plane.simulations.simulate(request(Limit("daily", Quota(60, Window.DAY))))
    assert (found.effect.best, found.effect.worst) == (8, 8)
    assert not any("means" in note for note in found.notes)


async def test_costs_that_differ_are_noted(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Where calls on one limit cost differently, the bounds are estimates, and a note says so."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(NOW - HOUR, 10), Counted(NOW - 2 * HOUR, acme(resource="large"), Counts(1, 0, 30))])
    found = await control_plane.simulations.simulate(request(Limit("daily", Quota(60, Window.DAY))))
    assert any("means" in note for note in found.notes)


async def test_a_limit_of_calls_counts_each_once(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """Of 20 calls that cost 5 each, and one that cost 30, a limit of 15 calls denies six, whatever they cost."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write(
        [
            Counted(NOW - HOUR, acme(), Counts(10, 10, 50), (("burst", 10, 0),)),
            Counted(NOW - 2 * HOUR, acme(resource="large"), Counts(1, 0, 30)),
        ]
    )
    limit = Limit("daily", Quota(15, Window.DAY), counts=Counting.CALLS)
    found = await control_plane.simulations.simulate(request(limit))
    assert (found.effect.best, found.effect.worst) == (6, 6)
    assert not any("means" in note for note in found.notes)


async def test_a_simulation_out_of_time_says_so(control_plane: ControlPlane, usage: UsageWriter) -> None:
    """With no time left nothing is replayed, and the result is not complete."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(NOW - HOUR, 10)])
    control_plane.simulations._budget = 0.0
    found = await control_plane.simulations.simulate(request(Limit("daily", Quota(1, Window.DAY))))
    assert not found.complete
    assert found.effect.calls == 0
    assert "only a part" in found.notes[-1]


async def test_few_simulations_wait(control_plane: ControlPlane, usage: UsageWriter, database_url: str) -> None:
    """Of many at once a few are done, one after another, and the others are to try again; later all can."""
    await control_plane.plans.create("ada", plan_draft())
    usage.write([calls(NOW - HOUR, 10)])
    wanted = request(Limit("daily", Quota(1, Window.DAY)))
    with connect(database_url) as connection:
        connection.execute("LOCK TABLE usage_series")  # none is done before all have come
        many = [asyncio.create_task(control_plane.simulations.simulate(wanted)) for _ in range(3 * MAX_WAITING)]
        for first in islice(asyncio.as_completed(many), 2 * MAX_WAITING):
            with pytest.raises(Unavailable):
                await first
        connection.rollback()
    results = await asyncio.gather(*many, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Unavailable)]
    done = [result for result in results if isinstance(result, Simulation)]
    assert (len(done), len(refused)) == (MAX_WAITING, 2 * MAX_WAITING)
    assert {error.reason for error in refused} == {"TOO_MANY_AT_ONCE"}
    assert (await control_plane.simulations.simulate(wanted)).complete


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"limits": ()}, "limits"),
        ({"top": 1_001}, "top"),
        ({"start_us": START + 1}, "start_time"),
        ({"start_us": START - 91 * DAY}, "start_time"),
    ],
)
async def test_a_request_that_cannot_be_answered_names_its_field(
    control_plane: ControlPlane, change: dict[str, object], field: str
) -> None:
    """No limits, too many keys, a range in the future or before all hours."""
    values = {"plan": "free", "limits": (Limit("daily", Quota(1, Window.DAY)),)} | change
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.simulations.simulate(SimulationRequest(**values))  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_an_unknown_plan_is_not_found(control_plane: ControlPlane) -> None:
    """There is nothing to compare with."""
    with pytest.raises(NotFound):
        await control_plane.simulations.simulate(request(Limit("daily", Quota(1, Window.DAY))))
