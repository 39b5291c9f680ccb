"""What passes at several Envoys together, and beside checks: not more than was promised, and not much less."""

from random import Random

import pytest

from decision.assignments.world import STEP, World, most_in
from decision.descriptors.world import bucket, node
from ratelimit_service.decision.charge import Charge

RATE = 200
DELAY = 12
"""Seconds of its rate that a limit may be exceeded by if checks are charged to it, too: 5 until Envoys report, 5 over
which that is charged, and what it takes until less is assigned."""


async def run(
    demands: list[float], seconds: float, *, capacity: int = 100, checks: float = 0, toggle: float = 0, servers: int = 2
) -> tuple[World, list[float]]:
    """Have Envoys at SERVERS want to pass so many requests a second each, perhaps on and off, beside CHECKS.

    Returns them, and the times of the checks that were allowed.
    """
    world = await World(node("part", "search", bucket(capacity, RATE)), servers=servers).begin()
    for number, demand in enumerate(demands):
        world.envoy(demand, server=number % servers)
    tree = world.rules.get("shop")
    assert tree is not None
    buckets = tree.match((("part", "search"),)).buckets
    random, due, allowed = Random(1), 0.0, []
    for number in range(round(seconds / STEP)):
        if toggle and number % round(toggle / STEP) == 0:
            for envoy, demand in zip(world.envoys, demands, strict=True):
                envoy.demand = demand if envoy.demand == 0 else 0
        await world.step()
        count = 0
        while checks and due <= world.now():
            due += random.expovariate(checks)
            count += 1
        results = await world.buckets.charge([Charge(buckets, (1,))] * count) if count else ()
        allowed += [world.now() for result in results if result.charged]
    return world, allowed


@pytest.mark.parametrize("demands", [[150, 100, 50], [90, 60, 30], [300, 0, 0], [60, 60, 60]])
@pytest.mark.parametrize("capacity", [40, 2_000])
async def test_envoys_alone(demands: list[float], capacity: int) -> None:
    """Never more than the limit in any ten seconds; at steady load 97 % of what it admits, or of what is wanted."""
    world, _ = await run(demands, 40, capacity=capacity)
    assert most_in(world.passed(), 10) <= capacity + 10 * RATE
    steady = len(world.passed(since=15)) / 25
    wanted = sum(len(envoy.passed) + len(envoy.denied) for envoy in world.envoys) / 40
    assert steady >= 0.97 * min(RATE, wanted)
    charged = sum(server.payments.charged + server.payments.forgotten for server in world.servers)
    assert charged <= len(world.passed())
    assert world.servers[0].payments.forgotten == 0 or capacity < 0.5 * RATE


async def test_what_first_reports_free_is_given_on_at_once() -> None:
    """Also at another server, whose Envoy reported before: what it needs was not free then."""
    world, _ = await run([300, 10, 10], 10, servers=3)
    assert len(world.passed(since=5)) >= 0.9 * 5 * RATE


async def test_demand_that_moves() -> None:
    """It is noticed with the next reports, and the limit holds all the time."""
    world, _ = await run([300, 10], 12)
    first, second = world.envoys
    first.demand, second.demand = second.demand, first.demand
    await world.run(15)
    assert most_in(world.passed(), 10) <= 100 + 10 * RATE
    assert len(world.passed(since=21)) >= 0.97 * 6 * RATE
    assert second.units > 1_800


@pytest.mark.parametrize(
    ("demands", "checks", "toggle", "capacity"),
    [
        ([60, 40], 60, 0, 100),
        ([150, 150], 100, 0, 100),
        ([150, 150], 600, 0, 100),
        ([150, 150], 200, 5, 100),
        ([150, 150], 200, 10, 100),
        ([160, 100, 40], 400, 0, 400),
    ],
)
async def test_envoys_beside_checks(demands: list[float], checks: float, toggle: float, capacity: int) -> None:
    """Together they exceed the limit by DELAY seconds of its rate at most, once, however long it lasts."""
    world, allowed = await run(demands, 60, capacity=capacity, checks=checks, toggle=toggle, servers=len(demands))
    together = sorted([*world.passed(), *allowed])
    for seconds in (1, 10, 30, 60):
        assert most_in(together, seconds) <= 2 * capacity + RATE * (seconds + DELAY), seconds
    if sum(demands) + checks <= RATE:
        wanted = sum(len(envoy.passed) + len(envoy.denied) for envoy in world.envoys)
        assert len(world.passed(since=10)) >= 0.97 * wanted * 50 / 60
    else:
        assert len([at for at in together if at > 30]) >= 0.85 * RATE * 30
