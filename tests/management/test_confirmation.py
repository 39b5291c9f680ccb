"""Changes that cut or lift limits, or touch many keys, are made only when they are confirmed."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from fixtures.control_plane import BURST, DAILY, DAY, SECOND, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.descriptors.rules import (
    Blocked,
    DomainRules,
    RuleCharge,
    RuleLimit,
    RuleNode,
    RuleOnStoreFailure,
    Unlimited,
)
from ratelimit_service.decision.limit import (
    MICRO,
    Concurrency,
    Counting,
    Level,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
)
from ratelimit_service.decision.record import OnStoreFailure, Override
from ratelimit_service.errors import NotFound
from ratelimit_service.management import rules as rules_module
from ratelimit_service.management.confirmation import VALID_US, ConfirmationRequired
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.postgres.database import Database

ACME = OverrideTarget(Level.SUBJECT, "acme")
ALLOWED_KEYS = 3
TEN = RuleLimit(Quota(10, Window.DAY), "ten")


@pytest_asyncio.fixture
async def plane(database: Database) -> ControlPlane:
    """Return the services with the plan free, where a change may touch three keys unconfirmed."""
    plane = ControlPlane(database, confirm_keys=ALLOWED_KEYS)
    await plane.plans.create("ada", plan_draft())
    return plane


async def required(change: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> ConfirmationRequired:  # noqa: ANN401
    """The error of a change that has to be confirmed."""
    with pytest.raises(ConfirmationRequired) as caught:
        await change(*arguments, **named)
    assert caught.value.reason == "CONFIRMATION_REQUIRED"
    return caught.value


def bucket(capacity: int, refill: int) -> Limit:
    """A limit in place of BURST."""
    return Limit("burst", TokenBucket(capacity, refill, SECOND))


@pytest.mark.parametrize(
    ("changes", "effects"),
    [
        ({"limits": (bucket(9, 10), DAILY)}, ["limit burst is cut by 55 %"]),
        ({"limits": (bucket(20, 4), DAILY)}, ["limit burst is cut by 60 %"]),
        ({"limits": (bucket(201, 10), DAILY)}, ["limit burst is lifted to 10.1 times as much"]),
        ({"limits": (BURST, Limit("daily", Quota(4_999, Window.DAY)))}, ["limit daily is cut by 50 %"]),
        (
            {"limits": (BURST, Limit("daily", Quota(10_000, Window.HOUR)))},
            ["limit daily is lifted to 24 times as much"],
        ),
        ({"limits": (Limit("burst", Quota(10_000, Window.DAY)), DAILY)}, ["limit burst is cut by 98.8 %"]),
        (
            {"limits": (Limit("burst", Concurrency(20, 30 * MICRO)), DAILY)},
            ["limit burst counts something else: tokens, or calls at once"],
        ),
        (
            {"limits": (Limit("burst", Quota(864_000, Window.DAY)), DAILY)},
            ["limit burst is lifted to 4.32e+04 times as much"],
        ),
        (
            {"limits": (BURST, Limit("daily", Quota(310_000, Window.MONTH)))},
            ["limit daily is lifted to 31 times as much"],
        ),
        ({"limits": (DAILY,)}, ["limit burst is removed"]),
        (
            {"limits": (replace(BURST, counts=Counting.CALLS), DAILY)},
            ["limit burst counts calls, whatever they cost"],
        ),
        ({"limits": (replace(BURST, mode=Mode.SHADOW), DAILY)}, ["limit burst only reports any more"]),
        (
            {"limits": (replace(BURST, resource="orders.*"), DAILY)},
            ["limit burst is for orders.* and no more for *"],
        ),
        (
            {"on_store_failure": OnStoreFailure.ALLOW},
            ["everything is allowed while the bucket store is away"],
        ),
        ({"limits": (bucket(10, 5), DAILY)}, []),
        ({"limits": (bucket(200, 100), DAILY)}, []),
        ({"limits": (BURST, DAILY, Limit("new", Quota(1, Window.DAY)))}, []),
        ({"on_store_failure": OnStoreFailure.DENY}, []),
        ({"description": "other"}, []),
    ],
)
async def test_which_changes_of_plans(plane: ControlPlane, changes: PlanChanges, effects: list[str]) -> None:
    """A cut by more than half and whatever lifts a limit have to be confirmed, each named; other changes are made."""
    if not effects:
        assert (await plane.plans.update("ada", "free", changes)).version == 2
        return
    error = await required(plane.plans.update, "ada", "free", changes)
    assert list(error.effects) == effects
    assert (await plane.plans.get("free")).version == 1
    updated = await plane.plans.update("ada", "free", changes, confirmation=error.token)
    assert updated.version == 2


async def test_a_confirmation_is_for_one_change(plane: ControlPlane) -> None:
    """It confirms the change that was refused, by the same caller, in the state of then, for five minutes, as it is."""
    changes = PlanChanges(limits=(DAILY,))
    error = await required(plane.plans.update, "ada", "free", changes)
    other = PlanChanges(limits=(Limit("daily", Quota(9_999, Window.DAY)),))
    await required(plane.plans.update, "ada", "free", other, confirmation=error.token)
    await required(plane.plans.update, "bob", "free", changes, confirmation=error.token)
    for wrong in (
        "",
        "x",
        error.token[:-1],
        error.token.partition(".")[2],
        "f" * 200,
        f"ffffffffffffffff{error.token[13:]}",
    ):
        await required(plane.plans.update, "ada", "free", changes, confirmation=wrong)
    await plane.plans.update("ada", "free", PlanChanges(description="meanwhile"))
    await required(plane.plans.update, "ada", "free", changes, confirmation=error.token)
    again = await required(plane.plans.update, "ada", "free", changes)
    plane.clock.us += VALID_US
    late = await required(plane.plans.update, "ada", "free", changes, confirmation=again.token)
    assert late.expires_us == plane.clock.us + VALID_US
    plane.clock.us += VALID_US - 1
    assert (await plane.plans.update("ada", "free", changes, confirmation=late.token)).version == 3


async def test_a_change_of_many_keys(plane: ControlPlane) -> None:
    """A change of limits that touches more keys than may be has to be confirmed, one of the description does not."""
    slightly = PlanChanges(limits=(bucket(19, 10), DAILY))
    for _ in range(ALLOWED_KEYS):
        await plane.keys.create("ada", key_draft())
    await plane.plans.update("ada", "free", slightly)
    await plane.keys.create("ada", key_draft())
    changes = PlanChanges(limits=(bucket(18, 10), DAILY))
    error = await required(plane.plans.update, "ada", "free", changes)
    assert (list(error.effects), error.metadata["keys"]) == (["it touches 4 keys, more than 3"], "4")
    await plane.plans.update("ada", "free", PlanChanges(description="other"))
    of_subject = await required(plane.overrides.set, "ada", ACME, Override(bucket(30, 10)))
    assert list(of_subject.effects) == ["it touches 4 keys, more than 3"]
    await plane.overrides.set("ada", ACME, Override(bucket(30, 10)), confirmation=of_subject.token)


async def test_overrides_are_compared_with_what_applies(plane: ControlPlane) -> None:
    """An override is compared with what applies without it, or applied before, and so is its end."""
    key, _ = await plane.keys.create("ada", key_draft())
    of_key = OverrideTarget(Level.KEY, key.key_id)
    cut = await required(plane.overrides.set, "ada", ACME, Override(bucket(9, 5)))
    assert list(cut.effects) == ["limit burst is cut by 55 %"]
    await plane.overrides.set("ada", ACME, Override(bucket(200, 100)))
    cut = await required(plane.overrides.set, "ada", of_key, Override(bucket(20, 10)))
    assert list(cut.effects) == ["limit burst is cut by 90 %"]
    lifted = await required(plane.overrides.set, "ada", of_key, Override(bucket(2_001, 100)))
    assert list(lifted.effects) == ["limit burst is lifted to 10 times as much"]
    ended = await required(plane.overrides.delete, "ada", ACME, "burst")
    assert list(ended.effects) == ["limit burst is cut by 90 %"]
    await plane.overrides.delete("ada", ACME, "burst", confirmation=ended.token)
    await plane.overrides.set("ada", ACME, Override(Limit("extra", Quota(5, Window.DAY)), plane.clock.us + DAY))
    removed = await required(plane.overrides.delete, "ada", ACME, "extra")
    assert list(removed.effects) == ["limit extra is removed"]
    plane.clock.us += DAY
    await plane.overrides.delete("ada", ACME, "extra")


async def test_an_override_that_would_end_sooner(plane: ControlPlane) -> None:
    """Where one that is in force would end sooner, what applies then is compared with it, as if it were deleted."""
    await plane.keys.create("ada", key_draft())
    cut = await required(plane.overrides.set, "ada", ACME, Override(bucket(1, 1)))
    await plane.overrides.set("ada", ACME, Override(bucket(1, 1)), confirmation=cut.token)
    sooner = Override(bucket(1, 1), plane.clock.us + DAY)
    lifted = await required(plane.overrides.set, "ada", ACME, sooner)
    assert list(lifted.effects) == ["limit burst is lifted to 20 times as much"]
    await plane.overrides.set("ada", ACME, sooner, confirmation=lifted.token)
    await plane.overrides.set("ada", ACME, Override(bucket(1, 1), plane.clock.us + 2 * DAY))
    await required(plane.overrides.set, "ada", ACME, sooner)
    plane.clock.us += 3 * DAY
    await required(plane.overrides.set, "ada", ACME, Override(bucket(1, 1), plane.clock.us + DAY))
    await plane.overrides.set("ada", ACME, Override(bucket(20, 10), plane.clock.us + DAY))


def tree(*limits: RuleLimit, **fields: Any) -> RuleNode:  # noqa: ANN401
    """A node for any path."""
    return RuleNode("path", limits=limits, **fields)


async def replace_rules(plane: ControlPlane, rules: DomainRules, effects: list[str]) -> None:
    """Replace the rules of a domain: with a confirmation of exactly these EFFECTS, or without one if there are none."""
    token = ""
    if effects:
        error = await required(plane.rules.replace, "ada", rules)
        assert list(error.effects) == effects
        token = error.token
    await plane.rules.replace("ada", rules, confirmation=token)


@pytest.mark.parametrize(
    ("nodes", "effects"),
    [
        ((tree(replace(TEN, algorithm=Quota(4, Window.DAY))),), ["path: limit ten is cut by 60 %"]),
        ((tree(RuleLimit(Blocked())),), ["path: limit ten is removed"]),
        ((tree(RuleLimit(Unlimited(), "ten")),), ["path: limit ten is removed"]),
        ((tree(RuleLimit(Blocked(), "ten")),), ["path: limit ten blocks everything"]),
        (
            (tree(TEN, on_store_failure=RuleOnStoreFailure.ALLOW),),
            ["path: everything is allowed while the bucket store is away"],
        ),
        ((RuleNode("other"),), ["path is removed"]),
        (
            (tree(TEN), RuleNode("path", "/free")),
            ["path=/free, which had the limits of path: limit ten is removed"],
        ),
        (
            (tree(TEN), RuleNode("who", limits=(RuleLimit(Quota(1, Window.DAY), "one", replaces=("ten",)),))),
            ["who: limit ten does not apply where one does"],
        ),
        ((tree(TEN, RuleLimit(Quota(1, Window.DAY), "one")),), []),
        ((tree(TEN, descriptors=(RuleNode("method", limits=(RuleLimit(Blocked()),)),)),), []),
    ],
)
async def test_which_changes_of_rules(plane: ControlPlane, nodes: tuple[RuleNode, ...], effects: list[str]) -> None:
    """Rules are compared node by node, a new value with what it had from a wildcard or from its key alone."""
    await plane.rules.replace("ada", DomainRules("edge", (tree(TEN),)))
    await replace_rules(plane, DomainRules("edge", nodes), effects)
    assert (await plane.rules.get("edge")).version == 2


async def test_to_charge_less_is_confirmed(plane: ControlPlane) -> None:
    """What is charged whatever is left, and then only if it fits, lifts limits: for a domain, and for a node."""
    effect = "what costs more than is left is not charged any more"
    always = RuleCharge.ALWAYS
    for before, after, effects in (
        (DomainRules("edge", (tree(TEN),), charge=always), DomainRules("edge", (tree(TEN),)), [effect]),
        (DomainRules("edge", (tree(TEN, charge=always),)), DomainRules("edge", (tree(TEN),)), [f"path: {effect}"]),
    ):
        await plane.rules.replace("ada", before)
        await replace_rules(plane, after, effects)


async def test_to_hold_calls_or_not_is_confirmed(plane: ControlPlane) -> None:
    """In an existing domain, and if calls are held for much less time: a little less is a change like any other."""
    long, little_less, short = (DomainRules("edge", hold_us=seconds * 1_000_000) for seconds in (60, 30, 14))
    effect = "calls of keys are not held any more: no limit on calls at once applies to them"
    await plane.rules.replace("ada", DomainRules("edge"))
    await replace_rules(
        plane,
        long,
        ["each call of a key is reserved until it is settled; of those with another descriptor all are denied"],
    )
    await replace_rules(plane, little_less, [])
    await replace_rules(
        plane,
        short,
        ["calls of keys are held for less than half of the time: those that last longer are not settled"],
    )
    await replace_rules(plane, DomainRules("edge"), [effect])
    await plane.rules.delete("ada", "edge")
    await plane.rules.replace("ada", long)
    assert list((await required(plane.rules.delete, "ada", "edge")).effects) == [effect]


def wild(value: str, *limits: RuleLimit, **fields: Any) -> RuleNode:  # noqa: ANN401
    """A node for paths like VALUE."""
    return RuleNode("path", value, limits, **fields)


BELOW = {"descriptors": (RuleNode("method", limits=(TEN,)),)}
REPLACING = RuleNode("method", limits=(RuleLimit(Quota(1, Window.DAY), "one", replaces=("ten",)),))


@pytest.mark.parametrize(
    ("before", "after", "effects"),
    [
        (
            (tree(**BELOW),),
            (tree(**BELOW), wild("/free")),
            ["path=/free, which had the limits of path: method is removed"],
        ),
        (
            (wild("/a/*", **BELOW), tree(TEN)),
            (wild("/a/*", **BELOW), wild("/a/b"), tree(TEN)),
            ["path=/a/b, which had the limits of path=/a/*: method is removed"],
        ),
        (
            (wild("/a/*", TEN),),
            (wild("/a*"), wild("/a/*", TEN)),
            ["path=/a*, which had the limits of path=/a/*: limit ten is removed"],
        ),
        (
            (wild("/a/*", TEN), wild("/a*"), wild("*")),
            (wild("/a*"), wild("/a/*", TEN), wild("*")),
            ["path=/a*, which had the limits of path=/a/*: limit ten is removed"],
        ),
        (
            (tree(TEN),),
            (tree(TEN), wild("/free", TEN, on_store_failure=RuleOnStoreFailure.ALLOW)),
            ["path=/free, which had the limits of path: everything is allowed while the bucket store is away"],
        ),
        (
            (tree(TEN),),
            (tree(TEN), RuleNode("who", descriptors=(REPLACING,))),
            ["who/method: limit ten does not apply where one does"],
        ),
        (
            (wild("/a/*", TEN),),
            (wild("/b*"), wild("*/b"), wild("/a/*", TEN)),
            ["path=*/b, which had the limits of path=/a/*: limit ten is removed"],
        ),
        ((wild("/a/*", TEN),), (wild("/b*"), wild("/a/*", TEN), wild("*")), []),
        ((tree(**BELOW),), (tree(**BELOW), wild("/free", **BELOW)), []),
        ((wild("/a/*", TEN), wild("/b/*")), (wild("/b/*"), wild("/a/*", TEN)), []),
    ],
)
async def test_rules_that_take_values_from_others(
    plane: ControlPlane, before: tuple[RuleNode, ...], after: tuple[RuleNode, ...], effects: list[str]
) -> None:
    """What a value had is compared with what it has, however it came to match another rule, and on all levels."""
    await plane.rules.replace("ada", DomainRules("edge", before))
    await replace_rules(plane, DomainRules("edge", after), effects)


async def test_more_wildcards_than_are_compared(plane: ControlPlane) -> None:
    """What would take too long to compare has to be confirmed."""
    wildcards = tuple(wild(f"{'a' * length}*", TEN) for length in range(100))
    await plane.rules.replace("ada", DomainRules("edge", wildcards))
    error = await required(plane.rules.replace, "ada", DomainRules("edge", wildcards[::-1]))
    assert list(error.effects) == ["the domain: more wildcards took values from others than are compared"]


async def test_rules_are_compared_beside_the_event_loop(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long with rules that have all that they may is no work of the thread that answers calls."""
    await plane.rules.replace("ada", DomainRules("edge", (tree(TEN),)))
    threads: set[int] = set()

    def note(*_arguments: object, **_named: object) -> list[str]:
        threads.add(threading.get_ident())
        return []

    for name in ("rules_effects", "check_name", "nodes_to_documents"):
        monkeypatch.setattr(rules_module, name, note)
    await plane.rules.replace("ada", DomainRules("edge", (tree(),)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_the_end_of_a_domain(plane: ControlPlane) -> None:
    """Deleting rules with a limit has to be confirmed; those that limit nothing are deleted at once."""
    await plane.rules.replace("ada", DomainRules("edge", (tree(TEN),)))
    await plane.rules.replace("ada", DomainRules("open", (tree(),)))
    await plane.rules.delete("ada", "open")
    error = await required(plane.rules.delete, "ada", "edge")
    assert list(error.effects) == ["path is removed"]
    await plane.rules.delete("ada", "edge", confirmation=error.token)


async def test_a_plan_is_rolled_back(plane: ControlPlane) -> None:
    """The version before, or a chosen one, is in force again as a new version, with the same guard, and audited."""
    with pytest.raises(NotFound):
        await plane.plans.roll_back("ada", "free")
    await plane.plans.update("ada", "free", PlanChanges(limits=(bucket(15, 8), DAILY), description="second"))
    await plane.plans.update("ada", "free", PlanChanges(limits=(bucket(10, 8), DAILY)))
    second = await plane.plans.roll_back("ada", "free")
    assert (second.version, second.limits, second.description) == (4, (bucket(15, 8), DAILY), "second")
    first = await plane.plans.roll_back("ada", "free", version=1)
    assert (first.version, first.limits, first.description) == (5, (BURST, DAILY), "for tests")
    with pytest.raises(NotFound):
        await plane.plans.roll_back("ada", "free", version=9)
    cut = PlanChanges(limits=(bucket(5, 5), DAILY))
    error = await required(plane.plans.update, "ada", "free", cut)
    await plane.plans.update("ada", "free", cut, confirmation=error.token)
    assert (await plane.plans.roll_back("ada", "free")).limits == (BURST, DAILY)
    again = await required(plane.plans.roll_back, "ada", "free")
    assert list(again.effects) == ["limit burst is cut by 75 %"]
    events = (await plane.audit.list(Paging())).items
    assert [event.event.action for event in events[:4]] == [
        "plan.rollback",
        "plan.update",
        "plan.rollback",
        "plan.rollback",
    ]
    assert events[0].event.detail["limits"]["burst"]["token_bucket"]["capacity"] == 20
