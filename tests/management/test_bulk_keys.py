"""Many keys in one call, on a real Postgres."""

import asyncio

import psycopg
import pytest
import pytest_asyncio

from fixtures.control_plane import SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.record import KeyState
from ratelimit_service.errors import FailedPrecondition, InvalidArgument, NotFound, ServiceError, Unavailable
from ratelimit_service.management import bulk_keys
from ratelimit_service.management.key import Key
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.change_feed import PostgresChangeFeed

UNKNOWN = "0123456789abcdef"


@pytest_asyncio.fixture
async def plane(control_plane: ControlPlane) -> ControlPlane:
    """Give the control plane the plan free."""
    await control_plane.plans.create("ada", plan_draft("free"))
    return control_plane


async def make(plane: ControlPlane, count: int) -> list[Key]:
    """Create keys, each with its own subject."""
    results = await plane.bulk_keys.create("ada", [key_draft(f"s{number}") for number in range(count)])
    return [result[0] for result in results if not isinstance(result, ServiceError)]


async def test_a_thousand_keys_are_created_and_revoked(plane: ControlPlane) -> None:
    """Of 1,000 drafts there are 1,000 keys in this order, each with its secret, audit event and announced change."""
    feed = PostgresChangeFeed(plane.database)
    position = await feed.position()
    results = await plane.bulk_keys.create("ada", [key_draft(f"s{number}") for number in range(1000)])

    made = [result for result in results if not isinstance(result, ServiceError)]
    assert [key.subject for key, _ in made] == [f"s{number}" for number in range(1000)]
    assert len({api_key.secret for _, api_key in made}) == 1000
    assert all(plane.peppers.matches(api_key, key.secrets[0]) for key, api_key in made)
    assert (await plane.keys.list(Paging(1000))).items == [key for key, _ in made]
    key_ids = [key.key_id for key, _ in made]
    assert [change.name for change in (await feed.wait(position)).changes] == key_ids

    revoked = await plane.bulk_keys.revoke("bob", key_ids)
    assert {key.state for key in revoked if isinstance(key, Key)} == {KeyState.REVOKED}
    assert (await plane.keys.list(Paging(1000))).items == revoked
    events = [recorded.event for recorded in (await plane.audit.list(Paging(1000))).items]
    assert [(event.actor, event.action, event.target) for event in events[::-1]] == [
        ("bob", "key.revoke", f"keys/{key_id}") for key_id in key_ids
    ]
    assert {(event.previous["state"], event.detail["state"]) for event in events} == {("ACTIVE", "REVOKED")}
    await feed.close()


async def test_each_key_is_created_or_not_on_its_own(plane: ControlPlane) -> None:
    """An invalid draft, one on an unknown plan and one that could not be read have errors; the others are created."""
    unread = InvalidArgument.of("expire_time", "is no time")
    drafts = [key_draft("a"), key_draft(""), key_draft("b", "gold"), unread, key_draft("c", expires_us=START)]

    results = await plane.bulk_keys.create("ada", [*drafts, key_draft("z")])

    assert [key.subject for key in (await plane.keys.list(Paging())).items] == ["a", "z"]
    errors = [result for result in results if isinstance(result, ServiceError)]
    assert [(type(error), error.reason) for error in errors] == [
        (InvalidArgument, "INVALID_FIELD"),
        (NotFound, "PLAN_NOT_FOUND"),
        (InvalidArgument, "INVALID_FIELD"),
        (InvalidArgument, "INVALID_FIELD"),
    ]
    assert [isinstance(result, ServiceError) for result in results] == [False, True, True, True, True, False]


async def test_each_state_is_changed_or_not_on_its_own(plane: ControlPlane) -> None:
    """What a key's state does not allow, an unknown id and a malformed one have errors, in place; others change."""
    first, second, third = await make(plane, 3)
    await plane.keys.suspend("ada", second.key_id)
    plane.clock.us += SECOND

    asked = [first.key_id, second.key_id, UNKNOWN, "no id", third.key_id, first.key_id]
    results = await plane.bulk_keys.suspend("bob", asked)

    assert [result.key_id if isinstance(result, Key) else type(result) for result in results] == [
        first.key_id,
        FailedPrecondition,
        NotFound,
        InvalidArgument,
        third.key_id,
        FailedPrecondition,
    ]
    suspended = await plane.keys.get(first.key_id)
    assert suspended == results[0]
    assert (suspended.state, suspended.updated_us, suspended.revision) == (KeyState.SUSPENDED, START + SECOND, 2)
    resumed = await plane.bulk_keys.resume("bob", [first.key_id, second.key_id])
    assert [key.state for key in resumed if isinstance(key, Key)] == [KeyState.ACTIVE] * 2


async def test_a_key_that_is_revoked_stays_as_it_is(plane: ControlPlane) -> None:
    """Revoking twice, in one call and in two, succeeds and is recorded once."""
    (key,) = await make(plane, 1)
    results = await plane.bulk_keys.revoke("ada", [key.key_id, key.key_id])
    again = await plane.bulk_keys.revoke("ada", [key.key_id])

    assert [*results, *again] == [await plane.keys.get(key.key_id)] * 3
    actions = [recorded.event.action for recorded in (await plane.audit.list(Paging())).items]
    assert actions.count("key.revoke") == 1


async def test_a_key_with_an_unreadable_override_can_be_revoked(plane: ControlPlane, database_url: str) -> None:
    """The state of a key is changed without reading what it does not need, such as an override that is not valid."""
    key, other = await make(plane, 2)
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO overrides VALUES ('key', %s, 'burst', '{}', NULL)", (key.key_id,))

    results = await plane.bulk_keys.revoke("ada", [key.key_id, other.key_id])

    assert [isinstance(result, Key) and result.state for result in results] == [KeyState.REVOKED] * 2


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_call_has_one_to_a_thousand_items(plane: ControlPlane, count: int) -> None:
    """No item, or more than 1,000, is an invalid argument, and nothing is done."""
    with pytest.raises(InvalidArgument, match="keys"):
        await plane.bulk_keys.create("ada", [key_draft()] * count)
    with pytest.raises(InvalidArgument, match="key_ids"):
        await plane.bulk_keys.revoke("ada", [UNKNOWN] * count)
    assert (await plane.keys.list(Paging())).items == []


@pytest.mark.usefixtures("warm")
async def test_other_writers_get_their_turn(plane: ControlPlane) -> None:
    """A single change that is made while 1,000 keys are created waits for a part of them, not for all."""
    (key,) = await make(plane, 1)

    bulk = asyncio.create_task(plane.bulk_keys.create("ada", [key_draft()] * 1000))
    await asyncio.sleep(0.02)
    await plane.keys.suspend("bob", key.key_id)
    await bulk
    events = [recorded.event.action for recorded in (await plane.audit.list(Paging(1000))).items]
    assert 0 < events.index("key.suspend") < len(events) - 1


async def test_what_was_written_is_reported_when_postgres_is_lost(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Postgres is lost after a part, the keys of that part are returned, and the others have that error."""
    monkeypatch.setattr(bulk_keys, "_CHUNK", 2)
    transactions = plane.database.writing
    begun = 0

    def writing() -> object:
        nonlocal begun
        begun += 1
        if begun > 1:
            raise StoreUnavailable("Postgres is unavailable")
        return transactions()

    monkeypatch.setattr(plane.database, "writing", writing)
    results = await plane.bulk_keys.create("ada", [key_draft()] * 5)

    assert [isinstance(result, Unavailable) for result in results] == [False, False, True, True, True]
    assert begun == 2
    with pytest.raises(Unavailable):
        await plane.bulk_keys.create("ada", [key_draft()])
