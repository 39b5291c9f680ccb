"""Plans and their versions, on a real Postgres."""

import asyncio

import psycopg
import pytest

from fixtures.control_plane import BURST, DAILY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.limit import Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.ports import Change, ChangeKind
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.keys import KeyChanges
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.postgres.change_feed import PostgresChangeFeed

EVERY_KIND = (
    Limit("a.bucket", TokenBucket(9_007_199_254, 10**9, 1_000), "orders.*", Mode.SHADOW),
    *(Limit(f"per-{window.value}", Quota(n, window), f"r{n}") for n, window in enumerate(Window, start=1)),
)


async def test_a_plan_comes_back_as_it_was_made(control_plane: ControlPlane) -> None:
    """Every kind of limit survives storage, in the plan's order, as does all else."""
    draft = plan_draft("free", *EVERY_KIND) | {"on_store_failure": OnStoreFailure.DENY}

    plan = await control_plane.plans.create("ada", draft)

    assert await control_plane.plans.get("free") == plan
    assert (plan.version, plan.limits, plan.on_store_failure) == (1, EVERY_KIND, OnStoreFailure.DENY)
    assert (plan.created_us, plan.updated_us) == (START, START)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "Free"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"limits": ()}, "limits"),
        ({"limits": tuple(Limit(f"l{n}", Quota(1, Window.DAY)) for n in range(17))}, "limits"),
        ({"limits": (BURST, DAILY, BURST)}, "limits[2].name"),
        ({"name": "free "}, "name"),
        ({"limits": (BURST, Limit("daily", Quota(1, Window.DAY), "orders "))}, "limits[1].resource"),
        ({"description": "x" * 257}, "description"),
    ],
)
async def test_a_bad_draft_is_refused(control_plane: ControlPlane, changes: dict[str, object], field: str) -> None:
    """A plan is not made from a field that is out of bounds; the error names that field."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.plans.create("ada", plan_draft() | changes)

    assert [violation.field for violation in caught.value.violations] == [field]
    assert (await control_plane.plans.list(Paging())).items == []


async def test_sixteen_limits_are_accepted(control_plane: ControlPlane) -> None:
    """A plan may have as many as 16 limits."""
    limits = tuple(Limit(f"l{n}", Quota(1, Window.DAY)) for n in range(16))

    assert (await control_plane.plans.create("ada", plan_draft("full", *limits))).limits == limits


@pytest.mark.usefixtures("warm")
async def test_a_name_is_taken_once(control_plane: ControlPlane) -> None:
    """Of several plans made at once with one name exactly one is made, and the others are refused."""
    outcomes = await asyncio.gather(
        *(control_plane.plans.create("ada", plan_draft()) for _ in range(4)), return_exceptions=True
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExists)]
    assert len(refused) == 3
    assert (refused[0].reason, refused[0].metadata) == ("PLAN_EXISTS", {"plan": "free"})


async def test_an_update_is_a_new_version(control_plane: ControlPlane) -> None:
    """An update puts version 2 in force, changes what is named only, and leaves version 1 readable."""
    first = await control_plane.plans.create("ada", plan_draft())
    control_plane.clock.us += SECOND

    second = await control_plane.plans.update("ada", "free", PlanChanges(limits=(DAILY,)), etag=first.etag)

    assert (second.version, second.limits, second.description) == (2, (DAILY,), first.description)
    assert (second.created_us, second.updated_us) == (START, START + SECOND)
    assert second.etag != first.etag
    assert await control_plane.plans.get("free") == second
    assert await control_plane.plans.get("free", version=1) == first


async def test_an_update_is_checked_like_a_draft(control_plane: ControlPlane) -> None:
    """New limits with a blank at an end of a resource are refused, and the plan stays as it is."""
    plan = await control_plane.plans.create("ada", plan_draft())

    with pytest.raises(InvalidArgument, match=r"limits\[0\]\.resource"):
        await control_plane.plans.update(
            "ada", "free", PlanChanges(limits=(Limit("daily", Quota(1, Window.DAY), "\u2003orders"),))
        )

    assert await control_plane.plans.get("free") == plan


@pytest.mark.usefixtures("warm")
async def test_of_two_updates_with_one_etag_one_wins(control_plane: ControlPlane) -> None:
    """However many updates carry the same etag at once, exactly one is made and the others are refused."""
    plan = await control_plane.plans.create("ada", plan_draft())

    outcomes = await asyncio.gather(
        *(control_plane.plans.update("ada", "free", PlanChanges(description=str(n)), etag=plan.etag) for n in range(5)),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, Aborted) for outcome in outcomes) == 4
    assert (await control_plane.plans.get("free")).version == 2


@pytest.mark.usefixtures("warm")
async def test_updates_without_an_etag_are_all_made(control_plane: ControlPlane) -> None:
    """Updates at once that carry no etag get versions of their own, without a gap."""
    await control_plane.plans.create("ada", plan_draft())

    updated = await asyncio.gather(
        *(control_plane.plans.update("ada", "free", PlanChanges(description=str(n))) for n in range(5))
    )

    assert sorted(plan.version for plan in updated) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("version", [2, 2**63 - 1])
async def test_an_unknown_version_is_not_found(control_plane: ControlPlane, version: int) -> None:
    """A version that was never made is not found."""
    await control_plane.plans.create("ada", plan_draft())

    with pytest.raises(NotFound, match=f"version {version}"):
        await control_plane.plans.get("free", version=version)


async def test_a_negative_version_is_refused(control_plane: ControlPlane) -> None:
    """A version below zero is an invalid argument."""
    with pytest.raises(InvalidArgument, match="version"):
        await control_plane.plans.get("free", version=-1)


async def test_an_unknown_plan_is_named(control_plane: ControlPlane) -> None:
    """Every action on a plan that does not exist raises PLAN_NOT_FOUND with its name."""
    for action in (
        control_plane.plans.get("gold"),
        control_plane.plans.update("ada", "gold", PlanChanges(description="")),
        control_plane.plans.delete("ada", "gold"),
    ):
        with pytest.raises(NotFound) as caught:
            await action
        assert (caught.value.reason, caught.value.metadata) == ("PLAN_NOT_FOUND", {"plan": "gold"})


async def test_plans_are_listed_by_name(control_plane: ControlPlane) -> None:
    """Pages go through the plans in the order of their names' bytes, without a gap or a repetition."""
    names = ["a-b", "a.b", "a_b", "ab", "a0", "b"]
    for name in names:
        await control_plane.plans.create("ada", plan_draft(name))

    seen, token = [], ""
    for _ in range(3):
        page = await control_plane.plans.list(Paging(2, token))
        seen += [plan.name for plan in page.items]
        token = page.next_page_token

    assert seen == sorted(names)
    assert token == ""


async def test_a_plan_with_keys_cannot_be_deleted(control_plane: ControlPlane) -> None:
    """A plan is deleted only when every key on it was revoked or moved; the error counts the others."""
    await control_plane.plans.create("ada", plan_draft("free"))
    await control_plane.plans.create("ada", plan_draft("pro"))
    moved, _ = await control_plane.keys.create("ada", key_draft())
    revoked, _ = await control_plane.keys.create("ada", key_draft())
    await control_plane.keys.suspend("ada", revoked.key_id)

    with pytest.raises(FailedPrecondition) as caught:
        await control_plane.plans.delete("ada", "free")
    assert (caught.value.reason, caught.value.metadata) == ("PLAN_IN_USE", {"plan": "free", "keys": "2"})

    await control_plane.keys.update("ada", moved.key_id, KeyChanges(plan="pro"))
    revoked = await control_plane.keys.revoke("ada", revoked.key_id)
    await control_plane.plans.delete("ada", "free")

    with pytest.raises(NotFound):
        await control_plane.plans.get("free")
    assert await control_plane.keys.get(revoked.key_id) == revoked


async def test_a_deleted_name_is_free_again(control_plane: ControlPlane) -> None:
    """A plan that takes a deleted plan's name begins at version 1, with another etag and none of the old versions.

    Keys can be made on it.
    """
    old = await control_plane.plans.create("ada", plan_draft())
    await control_plane.plans.update("ada", "free", PlanChanges(limits=(DAILY,)))
    await control_plane.plans.delete("ada", "free")
    control_plane.clock.us += SECOND

    new = await control_plane.plans.create("ada", plan_draft())

    assert new.version == 1
    assert new.etag != old.etag
    with pytest.raises(NotFound):
        await control_plane.plans.get("free", version=2)
    assert [plan.name for plan in (await control_plane.plans.list(Paging())).items] == ["free"]
    key, _ = await control_plane.keys.create("ada", key_draft())
    assert await control_plane.keys.get(key.key_id) == key


async def test_a_deletion_checks_the_etag(control_plane: ControlPlane) -> None:
    """A plan that has changed since its etag was read is not deleted."""
    old = await control_plane.plans.create("ada", plan_draft())
    new = await control_plane.plans.update("ada", "free", PlanChanges(description=""))

    with pytest.raises(Aborted):
        await control_plane.plans.delete("ada", "free", etag=old.etag)
    assert await control_plane.plans.delete("ada", "free", etag=new.etag) == new


@pytest.mark.usefixtures("warm")
async def test_of_a_deletion_and_a_creation_at_once_one_is_refused(control_plane: ControlPlane) -> None:
    """No key ends up on a deleted plan, whatever the order of a deletion and a creation at the same time."""
    for n in range(5):
        await control_plane.plans.create("ada", plan_draft(f"p{n}"))
        deleted, created = await asyncio.gather(
            control_plane.plans.delete("ada", f"p{n}"),
            control_plane.keys.create("ada", key_draft(plan=f"p{n}")),
            return_exceptions=True,
        )
        assert isinstance(deleted, FailedPrecondition) != isinstance(created, NotFound)


async def test_every_change_is_recorded(control_plane: ControlPlane) -> None:
    """Each change of a plan has an audit event with the fields that changed and their new values."""
    await control_plane.plans.create("ada", plan_draft("free", BURST))
    await control_plane.plans.update("bob", "free", PlanChanges(on_store_failure=OnStoreFailure.ALLOW))
    await control_plane.plans.delete("ada", "free")

    page = await control_plane.audit.list(Paging(), AuditFilter(target="plans/free"))
    events = [recorded.event for recorded in page.items]

    assert [(event.actor, event.action) for event in events] == [
        ("ada", "plan.delete"),
        ("bob", "plan.update"),
        ("ada", "plan.create"),
    ]
    assert events[1].detail == {"version": 2, "on_store_failure": "ALLOW"}
    assert events[2].detail["limits"]["burst"]["token_bucket"]["capacity"] == 20


async def test_every_change_is_announced(control_plane: ControlPlane) -> None:
    """Each change of a plan is in the feed by which the servers learn of it."""
    feed = PostgresChangeFeed(control_plane.database)
    before = await feed.position()
    await control_plane.plans.create("ada", plan_draft())
    await control_plane.plans.update("ada", "free", PlanChanges(limits=(DAILY,)))
    await control_plane.plans.delete("ada", "free")
    found = await feed.wait(before)
    await feed.close()

    assert found.changes == [Change(ChangeKind.PLAN, "free")] * 3


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE plan_versions SET limits = '[]'",
        "UPDATE plan_versions SET limits = '7', create_time = 'infinity'",
        "UPDATE plans SET version = 7, create_time = '-infinity'",
    ],
)
async def test_a_plan_that_cannot_be_read_can_be_mended_or_deleted(
    control_plane: ControlPlane, database_url: str, damage: str
) -> None:
    """It is shown without limits, and keeps none; another version puts it right, and it can be deleted."""
    await control_plane.plans.create("ada", plan_draft())
    with psycopg.connect(database_url) as connection:
        connection.execute(damage.encode())
    (listed,) = (await control_plane.plans.list(Paging())).items
    assert (listed.name, listed.limits) == ("free", ())
    with pytest.raises(InvalidArgument, match="has 0 entries"):
        await control_plane.plans.update("ada", "free", PlanChanges(description="no limits"))
    assert (await control_plane.plans.delete("ada", "free")).limits == ()
    await control_plane.plans.create("ada", plan_draft())
    with psycopg.connect(database_url) as connection:
        connection.execute(damage.encode())
    await control_plane.plans.update("ada", "free", PlanChanges(limits=(BURST,)))
    assert (await control_plane.plans.get("free")).limits == (BURST,)
