"""Overrides of keys and subjects, on a real Postgres."""

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import BURST, DAILY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.limit import Level, Limit, Quota, Window
from ratelimit_service.decision.record import Override
from ratelimit_service.errors import FailedPrecondition, InvalidArgument, NotFound
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging

ACME = OverrideTarget(Level.SUBJECT, "acme")


@pytest_asyncio.fixture
async def key(control_plane: ControlPlane) -> OverrideTarget:
    """Make a key on the plan free."""
    await control_plane.plans.create("ada", plan_draft())
    made, _ = await control_plane.keys.create("ada", key_draft())
    return OverrideTarget(Level.KEY, made.key_id)


async def test_an_override_is_set_and_listed(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """What is set is listed in the order of the limits' names, for its own target only."""
    daily = Override(DAILY, START + SECOND)
    burst = Override(BURST)

    await control_plane.overrides.set("ada", key, daily)
    after = await control_plane.overrides.set("ada", key, burst)

    assert list(after) == [burst, daily]
    assert list(await control_plane.overrides.list(key)) == [burst, daily]
    assert list(await control_plane.overrides.list(ACME)) == []
    assert (await control_plane.keys.get(key.name)).overrides == (burst, daily)


async def test_a_subject_may_have_the_name_of_a_key(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """The overrides of a subject that is named like a key's id are not the key's, and deleting one leaves the other."""
    subject = OverrideTarget(Level.SUBJECT, key.name)
    await control_plane.overrides.set("ada", subject, Override(BURST))

    assert list(await control_plane.overrides.list(key)) == []
    assert (await control_plane.keys.get(key.name)).overrides == ()
    await control_plane.overrides.set("ada", key, Override(BURST))
    await control_plane.overrides.delete("ada", key, "burst")
    assert list(await control_plane.overrides.list(subject)) == [Override(BURST)]


async def test_an_override_replaces_the_one_of_its_name(control_plane: ControlPlane) -> None:
    """Setting an override of the same name again leaves one."""
    other = Override(Limit("burst", Quota(5, Window.HOUR)))

    await control_plane.overrides.set("ada", ACME, Override(BURST, START + SECOND))

    assert list(await control_plane.overrides.set("ada", ACME, other)) == [other]


async def test_an_expired_override_is_still_listed(control_plane: ControlPlane) -> None:
    """An override stays in the list after its end."""
    override = Override(BURST, START + SECOND)
    await control_plane.overrides.set("ada", ACME, override)
    control_plane.clock.us += 2 * SECOND

    assert list(await control_plane.overrides.list(ACME)) == [override]


async def test_an_end_in_the_past_is_refused(control_plane: ControlPlane) -> None:
    """An override cannot be set with an expire time that has passed."""
    with pytest.raises(InvalidArgument, match=r"override\.expire_time"):
        await control_plane.overrides.set("ada", ACME, Override(BURST, START))


@pytest.mark.parametrize(
    ("level", "name", "field"),
    [
        (Level.SUBJECT, " acme", "subject"),
        (Level.SUBJECT, "acme\ufeff", "subject"),
        (Level.SUBJECT, "a\0b", "subject"),
        (Level.KEY, " " * 16, "key_id"),
    ],
)
async def test_overrides_are_not_set_for_what_is_no_name(
    control_plane: ControlPlane, level: Level, name: str, field: str
) -> None:
    """Overrides are set for no name that a key cannot have; from before it could, they can be read and deleted."""
    with pytest.raises(InvalidArgument) as caught:
        await control_plane.overrides.set("ada", OverrideTarget(level, name), Override(BURST))

    assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_resource_with_blanks_is_refused(control_plane: ControlPlane) -> None:
    """The limit of an override has a resource that callers can send."""
    with pytest.raises(InvalidArgument, match=r"override\.limit\.resource"):
        await control_plane.overrides.set("ada", ACME, Override(Limit("burst", Quota(1, Window.DAY), " orders")))


async def test_sixteen_is_the_most(control_plane: ControlPlane) -> None:
    """A target takes 16 overrides and no seventeenth, but one of the 16 can still be replaced."""
    for n in range(16):
        await control_plane.overrides.set("ada", ACME, Override(Limit(f"l{n}", Quota(1, Window.DAY))))

    with pytest.raises(InvalidArgument, match=r"override\.limit\.name"):
        await control_plane.overrides.set("ada", ACME, Override(BURST))
    after = await control_plane.overrides.set("ada", ACME, Override(Limit("l3", Quota(2, Window.DAY))))

    assert len(after) == 16


async def test_an_override_is_deleted(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """Deleting one leaves the others, and those of the same name of other targets."""
    others = (OverrideTarget(Level.SUBJECT, "other"), key)
    for other in others:
        await control_plane.overrides.set("ada", other, Override(BURST))
    await control_plane.overrides.set("ada", ACME, Override(BURST))
    await control_plane.overrides.set("ada", ACME, Override(DAILY))

    assert list(await control_plane.overrides.delete("ada", ACME, "burst")) == [Override(DAILY)]
    for other in others:
        assert list(await control_plane.overrides.list(other)) == [Override(BURST)]


async def test_an_unknown_override_is_named(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """Deleting an override that is not there names the limit and its target."""
    with pytest.raises(NotFound) as caught:
        await control_plane.overrides.delete("ada", ACME, "burst")
    assert (caught.value.reason, caught.value.metadata) == (
        "OVERRIDE_NOT_FOUND",
        {"limit": "burst", "subject": "acme"},
    )

    with pytest.raises(NotFound) as caught:
        await control_plane.overrides.delete("ada", key, "burst")
    assert caught.value.metadata == {"limit": "burst", "key_id": key.name}


async def test_what_cannot_be_a_limit_is_refused(control_plane: ControlPlane) -> None:
    """Deleting by what is no limit's name is an invalid argument."""
    with pytest.raises(InvalidArgument, match="limit"):
        await control_plane.overrides.delete("ada", ACME, "\0")


async def test_an_unknown_key_is_named(control_plane: ControlPlane) -> None:
    """Every action on the overrides of a key that does not exist raises KEY_NOT_FOUND."""
    unknown = OverrideTarget(Level.KEY, "0123456789abcdef")
    for action in (
        control_plane.overrides.set("ada", unknown, Override(BURST)),
        control_plane.overrides.list(unknown),
        control_plane.overrides.delete("ada", unknown, "burst"),
    ):
        with pytest.raises(NotFound) as caught:
            await action
        assert caught.value.reason == "KEY_NOT_FOUND"


async def test_the_overrides_of_a_revoked_key_stay(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """The overrides of a revoked key can be listed and no longer changed."""
    await control_plane.overrides.set("ada", key, Override(BURST))
    await control_plane.keys.revoke("ada", key.name)

    with pytest.raises(FailedPrecondition):
        await control_plane.overrides.set("ada", key, Override(DAILY))
    with pytest.raises(FailedPrecondition):
        await control_plane.overrides.delete("ada", key, "burst")
    assert list(await control_plane.overrides.list(key)) == [Override(BURST)]


async def test_a_keys_etag_changes_with_its_overrides(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """An override of a key is part of it: setting one changes the key's etag and update time, and not its secrets."""
    before = await control_plane.keys.get(key.name)
    control_plane.clock.us += SECOND

    await control_plane.overrides.set("ada", key, Override(BURST))

    after = await control_plane.keys.get(key.name)
    assert after.etag != before.etag
    assert after.updated_us == before.updated_us + SECOND
    assert after.secrets == before.secrets


async def test_every_change_is_recorded(control_plane: ControlPlane, key: OverrideTarget) -> None:
    """Setting and deleting have audit events under the target's name."""
    await control_plane.overrides.set("ada", ACME, Override(BURST, START + SECOND))
    await control_plane.overrides.delete("bob", ACME, "burst")
    await control_plane.overrides.set("ada", key, Override(DAILY))

    events = [recorded.event for recorded in (await control_plane.audit.list(Paging())).items][:3]

    assert [(event.actor, event.action, event.target) for event in events] == [
        ("ada", "override.set", f"keys/{key.name}"),
        ("bob", "override.delete", "subjects/acme"),
        ("ada", "override.set", "subjects/acme"),
    ]
    assert events[2].detail["expire_time"] == "2026-11-24T06:00:01.123456Z"


async def test_the_overrides_of_all_are_listed_page_by_page(
    control_plane: ControlPlane, key: OverrideTarget, database_url: str
) -> None:
    """Keys come first, then subjects, each with its overrides; what cannot be read is left out, and hides nothing."""
    named_like_a_key = OverrideTarget(Level.SUBJECT, f"{key.name}/x")
    for target, limit in ((ACME, DAILY), (key, BURST), (named_like_a_key, BURST), (ACME, BURST)):
        await control_plane.overrides.set("ada", target, Override(limit))
    expected = [(key, "burst"), (ACME, "burst"), (ACME, "daily"), (named_like_a_key, "burst")]
    order = sorted(expected[1:], key=lambda found: (found[0].name.encode(), found[1]))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO overrides VALUES ('subject', 'acme', 'bad', '{}', NULL), ('key', 'short', 'bad', '{}', NULL)"
        )
    for size in (1, 2, 100):
        listed, token = [], ""
        while True:
            page = await control_plane.overrides.list_all(Paging(size, token))
            listed += [(target, override.limit.name) for target, override in page.items]
            token = page.next_page_token
            if not token:
                break
        assert listed == [expected[0], *order]
