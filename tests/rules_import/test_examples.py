"""The examples of envoyproxy/ratelimit's README, reworded: they are imported, and behave as documented there.

Time stands still in these tests, so that a window of a second does not end within one.
"""

from pathlib import Path

import pytest

from decision.descriptors.world import World, describe, is_unlimited
from ratelimit_service.decision.descriptors.request import Entries
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importer import import_files, to_quota

EXAMPLES = Path(__file__).parent / "examples"


async def world_of(name: str, findings: list[str] | None = None) -> tuple[World, str]:
    """A world with the rules of an example, and its domain. FINDINGS: what the import reports about it."""
    output = Findings()
    rules = import_files([(name, (EXAMPLES / f"{name}.yaml").read_text())], to_quota, output)
    assert [str(finding) for finding in output.all] == (findings or [])
    world = World()
    world.source.rules = {one.domain: one for one in rules}
    await world.rules.refresh_all()
    return world, rules[0].domain


async def allowed(world: World, domain: str, *descriptors: Entries, most: int = 1_000) -> int:
    """How many requests with these descriptors are allowed until one is denied."""
    for count in range(most):
        if not (await world.decide(*(describe(*entries) for entries in descriptors), domain=domain)).allowed:
            return count
    return most


async def test_values() -> None:
    """Each value of a key has its own limit; another value has none."""
    world, domain = await world_of("1_values")
    assert await allowed(world, domain, (("table", "people"),)) == 500
    assert await allowed(world, domain, (("table", "rest"),)) == 500
    assert await allowed(world, domain, (("table", "other"),)) == 1_000


async def test_nested() -> None:
    """Each number gets its own limits, and a request with both descriptors is denied by either."""
    world, domain = await world_of("2_nested")
    for number in ("111", "222"):
        offer = (("kind", "offer"), ("recipient", number))
        assert await allowed(world, domain, offer, (("recipient", number),)) == 5
        assert await allowed(world, domain, (("recipient", number),)) == 95
    assert await allowed(world, domain, (("kind", "offer"),)) == 1_000


async def test_order() -> None:
    """The exact value takes precedence over the key alone: each address gets ten, that one none."""
    world, domain = await world_of("3_order")
    assert await allowed(world, domain, (("address", "192.0.2.1"),)) == 10
    assert await allowed(world, domain, (("address", "192.0.2.2"),)) == 10
    assert await allowed(world, domain, (("address", "192.0.2.5"),)) == 0


async def test_depth() -> None:
    """A descriptor with two entries matches a rule of two levels, and only such a rule."""
    both = (("outer", "here"), ("inner", "there"))
    world, domain = await world_of("4_depth_one")
    assert await allowed(world, domain, both) == 1_000
    world, domain = await world_of("4_depth_two")
    assert await allowed(world, domain, both) == 300


async def test_unlimited() -> None:
    """An unlimited descriptor passes without a trip to the store, and differs from one that no rule matches."""
    world, domain = await world_of("5_unlimited")
    outcome = await world.decide(describe(("directory", "x")), describe(("unknown", "x")), domain=domain)
    assert [is_unlimited(status) for status in outcome.statuses] == [True, False]
    assert world.buckets.round_trips == 0
    assert await allowed(world, domain, (("cloud", "x"),)) == 100


async def test_shadow() -> None:
    """The user in shadow is never limited, though the store counts the breach; the other one is."""
    world, domain = await world_of("6_shadow")
    ann, ben = ((("service", "auth"), ("user", user)) for user in ("ann", "ben"))
    assert await allowed(world, domain, ann) == 1_000
    assert (await world.decide(describe(*ann), domain=domain)).statuses[0].results[0].wait_us > 0
    assert await allowed(world, domain, ben) == 20


async def test_replaces() -> None:
    """Where both apply only the replacing limit does, and the other one is not consumed."""
    reads, report = (("group", "reads"), ("user", "ann")), (("call", "report"), ("user", "ann"))
    world, domain = await world_of("7_replaces")
    assert await allowed(world, domain, reads, report) == 10
    assert await allowed(world, domain, reads) == 5


async def test_detailed_metric() -> None:
    """The setting for metrics is reported and left out; the limits are as they would be without it."""
    note = "8_detailed_metric:5: note: detailed_metric is left out: metrics here do not name descriptors"
    world, domain = await world_of("8_detailed_metric", [note])
    assert await allowed(world, domain, (("shop", "east"),)) == 10
    assert await allowed(world, domain, (("shop", "west"),)) == 10
    assert await allowed(world, domain, (("shop", "north"),)) == 20


@pytest.mark.parametrize(("key", "matching", "other"), [
    ("shop", ("north1", "north", "north-east"), "nort"),
    ("page", ("/shops/7/close", "/shops//close", "/shops/a/b/close"), "/shops/7/open"),
    ("call", ("/v1/shops/7/close", "/v2/shops/x/close"), "/v1/stores/7/close"),
])  # fmt: skip
async def test_wildcards(key: str, matching: tuple[str, ...], other: str) -> None:
    """Stars at the end, in the middle, and several: each matching value has a limit of its own, others none."""
    world, domain = await world_of("9_wildcards")
    for value in matching:
        assert await allowed(world, domain, ((key, value),)) == 20
    assert await allowed(world, domain, ((key, other),)) == 1_000


async def test_value_to_metric() -> None:
    """The setting for metrics is reported and left out on each level; the limits are the same without it."""
    notes = [
        f"10_value_to_metric:{line}: note: value_to_metric is left out: metrics here do not name descriptors"
        for line in (5, 9, 12)
    ]
    world, domain = await world_of("10_value_to_metric", notes)
    for shop, call, person in (("east", "readall", "ann"), ("east", "readone", "ann"), ("west", "readall", "ben")):
        assert await allowed(world, domain, (("shop", shop), ("call", call), ("person", person))) == 60
    assert await allowed(world, domain, (("shop", "east"), ("call", "write"), ("person", "ann"))) == 1_000


async def test_share_threshold() -> None:
    """All values of a wildcard share the limit, also on a nested level; without the setting each has its own."""
    note = "11_share_threshold:19: note: value_to_metric is left out: metrics here do not name descriptors"
    world, domain = await world_of("11_share_threshold", [note])
    assert await allowed(world, domain, (("file", "reports/a"),), most=5) == 5
    assert await allowed(world, domain, (("file", "reports/b"),), most=5) == 5
    assert await allowed(world, domain, (("file", "reports/c"),)) == 0
    for value in ("letters/a", "letters/b"):
        assert await allowed(world, domain, (("file", value),)) == 10
    assert await allowed(world, domain, (("page", "shop/1"), ("call", "GET"))) == 60
    assert await allowed(world, domain, (("page", "shop/2"), ("call", "GET"))) == 0
    assert await allowed(world, domain, (("page", "shop/2"), ("call", "PUT"))) == 60
