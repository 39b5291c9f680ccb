"""The audit log, on a real Postgres."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from fixtures.control_plane import BURST, DAILY, DAY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode, Unlimited
from ratelimit_service.decision.limit import Level, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure, Override
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.audit import AuditFilter, Event, differences, rfc3339
from ratelimit_service.management.documents import limit_to_document
from ratelimit_service.management.keys import KeyChanges
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.management.tokens import Role


async def test_events_are_listed_newest_first(control_plane: ControlPlane) -> None:
    """Pages go from the newest event to the oldest, without a gap or a repetition, while others are written."""
    for n in range(5):
        await control_plane.plans.create("ada", plan_draft(f"p{n}"))

    first = await control_plane.audit.list(Paging(2))
    await control_plane.plans.create("ada", plan_draft("later"))
    second = await control_plane.audit.list(Paging(2, first.next_page_token))
    third = await control_plane.audit.list(Paging(2, second.next_page_token))

    seen = [*first.items, *second.items, *third.items]
    assert [recorded.event.target for recorded in seen] == [f"plans/p{n}" for n in (4, 3, 2, 1, 0)]
    assert third.next_page_token == ""


@pytest.mark.usefixtures("warm")
async def test_events_count_up_in_the_order_of_the_changes(control_plane: ControlPlane) -> None:
    """Changes at the same time have event ids in the order of the keys' creation."""
    await control_plane.plans.create("ada", plan_draft())
    await asyncio.gather(*(control_plane.keys.create("ada", key_draft()) for _ in range(5)))

    created = [key.target for key in (await control_plane.keys.list(Paging())).items]
    events = (await control_plane.audit.list(Paging())).items

    assert [recorded.event.target for recorded in events][::-1] == ["plans/free", *created]


@pytest.mark.parametrize(
    ("paging", "target", "field"),
    [
        (Paging(-1), "", "page_size"),
        (Paging(1001), "", "page_size"),
        (Paging(0, "nonsense"), "", "page_token"),
        (Paging(0, "é"), "", "page_token"),
        (Paging(), "keys/\0", "target"),
        (Paging(), "x" * 273, "target"),
    ],
)
async def test_a_bad_request_is_refused(control_plane: ControlPlane, paging: Paging, target: str, field: str) -> None:
    """A page or target that cannot be is refused; the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.audit.list(paging, AuditFilter(target=target))

    assert [violation.field for violation in caught.value.violations] == [field]


def day_of(plane: ControlPlane, days: int) -> int:
    """Advance the clock to this day after the first, and return the time."""
    plane.clock.us = START + days * DAY
    return plane.clock.us


async def test_events_are_listed_by_every_filter(control_plane: ControlPlane) -> None:
    """Target, its prefix, actor, action and time each narrow the list, alone and together, and page by page."""
    await control_plane.plans.create("ada", plan_draft("free"))
    second = day_of(control_plane, 1)
    key, _ = await control_plane.keys.create("bob", key_draft())
    third = day_of(control_plane, 2)
    await control_plane.plans.create("bob", plan_draft("pro"))
    await control_plane.keys.revoke("ada", key.key_id)

    async def actions(**filters: str | int) -> list[str]:
        listed, token = [], ""
        while True:
            page = await control_plane.audit.list(Paging(1, token), AuditFilter(**filters))
            listed += [f"{one.event.actor} {one.event.action}" for one in page.items]
            token = page.next_page_token
            if not token:
                return listed

    assert await actions(target=key.target) == ["ada key.revoke", "bob key.create"]
    assert await actions(target_prefix="plans/") == ["bob plan.create", "ada plan.create"]
    assert await actions(actor="bob") == ["bob plan.create", "bob key.create"]
    assert await actions(action="plan.create") == ["bob plan.create", "ada plan.create"]
    assert await actions(start_us=second) == ["ada key.revoke", "bob plan.create", "bob key.create"]
    assert await actions(end_us=second) == ["ada plan.create"]
    assert await actions(start_us=second, end_us=third) == ["bob key.create"]
    assert await actions(actor="ada", target_prefix="keys/", start_us=third) == ["ada key.revoke"]
    assert await actions(actor="eve") == []


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        (AuditFilter(actor="a\0"), "actor"),
        (AuditFilter(action="x" * 65), "action"),
        (AuditFilter(target_prefix="x" * 273), "target_prefix"),
        (AuditFilter(start_us=1, end_us=1), "end_time"),
    ],
)
async def test_a_filter_that_matches_nothing_is_refused(
    control_plane: ControlPlane, filters: AuditFilter, field: str
) -> None:
    """A filter that no event can match is an error that names its field."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.audit.list(Paging(), filters)
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    "other",
    [
        AuditFilter(target_prefix="plans/"),
        AuditFilter(actor="ada"),
        AuditFilter(action="plan.create"),
        AuditFilter(start_us=0),
        AuditFilter(end_us=START + DAY),
    ],
)
async def test_a_page_token_is_bound_to_every_filter(control_plane: ControlPlane, other: AuditFilter) -> None:
    """A page token is refused for a list with another filter, though it would hold the same events."""
    for name in ("free", "pro"):
        await control_plane.plans.create("ada", plan_draft(name))
    token = (await control_plane.audit.list(Paging(1))).next_page_token
    with pytest.raises(InvalidArgument, match="page_token"):
        await control_plane.audit.list(Paging(1, token), other)


async def last(plane: ControlPlane) -> Event:
    """The newest event."""
    return (await plane.audit.list(Paging(1))).items[0].event


def shown(event: Event) -> dict[str, tuple[Any, Any]]:
    """The old and the new value of each field that an event changed."""
    return {one.path: (one.old, one.new) for one in differences(event.previous, event.detail)}


async def test_a_key_s_events_hold_old_and_new_values(control_plane: ControlPlane) -> None:
    """Each change of a key holds the fields that it changed, and no others, with the values before and after."""
    plane = control_plane
    for name in ("free", "pro"):
        await plane.plans.create("ada", plan_draft(name))
    draft = key_draft(expires_us=START + DAY) | {"labels": {"team": "search", "tier": "1"}}
    key, _ = await plane.keys.create("ada", draft)
    assert shown(await last(plane)) == {
        "plan": (None, "free"),
        "subject": (None, "acme"),
        "description": (None, "for tests"),
        "expire_time": (None, rfc3339(START + DAY)),
        "labels.team": (None, "search"),
        "labels.tier": (None, "1"),
    }
    await plane.keys.update(
        "ada", key.key_id, KeyChanges(plan="pro", description="for tests", expires_us=None, labels={"tier": "2"})
    )
    assert shown(await last(plane)) == {
        "plan": ("free", "pro"),
        "expire_time": (rfc3339(START + DAY), None),
        "labels.team": ("search", None),
        "labels.tier": ("1", "2"),
    }
    await plane.keys.rotate("ada", key.key_id, overlap_us=DAY)
    assert shown(await last(plane)) == {"previous_secret_expire_time": (None, rfc3339(START + DAY))}
    await plane.keys.rotate("ada", key.key_id, overlap_us=2 * DAY)
    assert shown(await last(plane)) == {"previous_secret_expire_time": (rfc3339(START + DAY), rfc3339(START + 2 * DAY))}
    await plane.keys.suspend("ada", key.key_id)
    assert shown(await last(plane)) == {"state": ("ACTIVE", "SUSPENDED")}
    await plane.keys.revoke("ada", key.key_id)
    assert shown(await last(plane)) == {"state": ("SUSPENDED", "REVOKED")}


async def test_a_plan_s_events_hold_old_and_new_values(control_plane: ControlPlane) -> None:
    """A change of a plan holds the parts of each limit that it changed, by the limit's name; a deletion, all it had."""
    plane = control_plane
    await plane.plans.create("ada", plan_draft("free"))
    created = shown(await last(plane))
    assert created["limits.burst.token_bucket.capacity"] == (None, 20)

    wider, monthly = replace(BURST, algorithm=TokenBucket(40, 10, SECOND)), Limit("monthly", Quota(9, Window.MONTH))
    await plane.plans.update("ada", "free", PlanChanges(limits=(wider, monthly), description="for tests"))
    assert shown(await last(plane)) == {
        "version": (1, 2),
        "limits.burst.token_bucket.capacity": (20, 40),
        **{f"limits.daily.{path}": (value, None) for path, value in fields_of(DAILY).items()},
        **{f"limits.monthly.{path}": (None, value) for path, value in fields_of(monthly).items()},
    }
    await plane.plans.update("ada", "free", PlanChanges(limits=(monthly, wider)))
    assert shown(await last(plane)) == {
        "version": (2, 3),
        "limit_order": (["burst", "monthly"], ["monthly", "burst"]),
    }
    await plane.plans.update("ada", "free", PlanChanges(on_store_failure=OnStoreFailure.DENY, description="new"))
    assert shown(await last(plane)) == {
        "version": (3, 4),
        "on_store_failure": ("LOCAL", "DENY"),
        "description": ("for tests", "new"),
    }
    await plane.plans.delete("ada", "free")
    deleted = shown(await last(plane))
    assert (deleted["version"], deleted["limits.burst.token_bucket.capacity"]) == ((4, None), (40, None))


def fields_of(limit: Limit) -> dict[str, Any]:
    """The fields of a limit, by their paths."""
    return {one.path: one.new for one in differences({}, limit_to_document(limit))}


async def test_the_events_of_overrides_hold_old_and_new_values(control_plane: ControlPlane) -> None:
    """Replacing an override holds what became of it, deleting one holds what it was."""
    plane, acme = control_plane, OverrideTarget(Level.SUBJECT, "acme")
    await plane.overrides.set("ada", acme, Override(BURST, START + DAY))
    assert shown(await last(plane))["expire_time"] == (None, rfc3339(START + DAY))
    await plane.overrides.set("ada", acme, Override(replace(BURST, algorithm=TokenBucket(40, 10, SECOND))))
    assert shown(await last(plane)) == {
        "limit.token_bucket.capacity": (20, 40),
        "expire_time": (rfc3339(START + DAY), None),
    }
    await plane.overrides.delete("ada", acme, "burst")
    deleted = shown(await last(plane))
    assert (deleted["limit.name"], deleted["limit.token_bucket.capacity"]) == (("burst", None), (40, None))


async def test_the_events_of_rules_and_tokens_hold_old_and_new_values(control_plane: ControlPlane) -> None:
    """Rules are recorded by version, count and settings, tokens by role; what is deleted, with what it was."""
    plane = control_plane
    tree = (RuleNode("user", limits=(RuleLimit(Unlimited()),)),)
    await plane.rules.replace("ada", DomainRules("edge", tree), description="first")
    await plane.rules.replace("ada", DomainRules("edge", ()), description="second")
    assert shown(await last(plane)) == {"version": (1, 2), "descriptors": (1, 0), "description": ("first", "second")}
    await plane.rules.delete("ada", "edge")
    assert shown(await last(plane))["version"] == (2, None)
    await plane.tokens.create("reader", Role.VIEWER)
    await plane.tokens.revoke("reader")
    assert shown(await last(plane)) == {"role": ("viewer", None)}


async def test_an_event_from_before_there_were_old_values(control_plane: ControlPlane, database_url: str) -> None:
    """A row that a server of the version before has written is read, without old values."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO audit_events (time, actor, action, target, detail) "
            "VALUES (now(), 'ada', 'plan.update', 'plans/free', '{\"version\": 2}')"
        )
    assert shown(await last(control_plane)) == {"version": (None, 2)}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("time", "'infinity'"),
        ("time", "'-infinity'"),
        ("detail", "'[1]'"),
        ("detail", "'null'"),
        ("previous", """'{"a": 1e400}'"""),
        ("previous", "('{\"a\": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb"),
        ("detail", "jsonb_build_object('a', repeat('x', 30000000))"),
    ],
)
async def test_no_event_hides_those_before_it(
    control_plane: ControlPlane, database_url: str, column: str, value: str
) -> None:
    """Who may append to the log cannot hide it: a row that is none of ours is listed, as far as it can be read."""
    await control_plane.plans.create("ada", plan_draft())
    names = {"time": "now()", "detail": "'{}'", "previous": "'{}'"} | {column: value}
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO audit_events (actor, action, target, time, detail, previous)"
            f" VALUES ('eve', 'plan.update', 'plans/free', {names['time']}, {names['detail']}, {names['previous']})"
        )

    found = (await control_plane.audit.list(Paging())).items

    assert [recorded.event.actor for recorded in found] == ["eve", "ada"]
    odd = found[0].event
    assert column == "time" or "unreadable" in (odd.detail if column == "detail" else odd.previous)
    assert rfc3339(odd.time_us)
