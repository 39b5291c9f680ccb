"""What callers see while Postgres is down, frozen, or restarted."""

from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest
import pytest_asyncio

from fixtures.control_plane import ControlPlane, key_draft, plan_draft
from fixtures.postgres import OwnPostgres
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Role
from ratelimit_service.postgres.change_feed import PostgresChangeFeed
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.policy_source import PostgresPolicySource


@pytest_asyncio.fixture
async def plane(own_postgres: OwnPostgres) -> AsyncIterator[ControlPlane]:
    """Return a control plane that has been in use, so that its pool holds connections."""
    database = Database(own_postgres.server.url)
    control_plane = ControlPlane(database)
    await control_plane.plans.create("ada", plan_draft())
    yield control_plane
    await database.close()


async def _assert_unavailable(plane: ControlPlane) -> None:
    """Check that reading, writing and authenticating each end in UNAVAILABLE within a second."""
    token = "rlt_0123456789ab_" + "x" * 32
    for action in (
        plane.keys.list(Paging()),
        plane.keys.create("ada", key_draft()),
        plane.plans.get("free"),
        plane.tokens.authenticate(token),
    ):
        began = monotonic()
        with pytest.raises(Unavailable) as caught:
            await action
        assert monotonic() - began < 1
        assert caught.value.reason == "POLICY_STORE_UNAVAILABLE"
        assert caught.value.retry_after > 0


async def test_a_stopped_postgres_is_reported_within_a_second(plane: ControlPlane, own_postgres: OwnPostgres) -> None:
    """While Postgres is stopped every action is UNAVAILABLE within a second, and works again once it is back."""
    own_postgres.server.stop()

    await _assert_unavailable(plane)
    with pytest.raises(StoreUnavailable):
        await plane.database.ping()


async def test_a_frozen_postgres_is_reported_within_a_second(plane: ControlPlane, own_postgres: OwnPostgres) -> None:
    """While Postgres keeps its connections and answers nothing every action is UNAVAILABLE within a second."""
    own_postgres.freeze()

    await _assert_unavailable(plane)

    own_postgres.thaw()
    assert (await plane.plans.get("free")).name == "free"


async def test_a_postgres_that_freezes_in_a_transaction_is_abandoned(own_postgres: OwnPostgres) -> None:
    """A transaction during which Postgres stops answering ends in UNAVAILABLE, and the pool works afterwards."""
    database = Database(own_postgres.server.url, transaction_seconds=0.5)
    plane = ControlPlane(database)
    await plane.plans.create("ada", plan_draft())
    try:
        began = monotonic()
        with pytest.raises(Unavailable, match="did not answer within"):
            async with plane.transactions.writing() as work:
                own_postgres.freeze()
                await work.plans.get("free")
        assert monotonic() - began < 1.5
        own_postgres.thaw()
        assert (await plane.plans.get("free")).version == 1
    finally:
        await database.close()


async def test_a_frozen_postgres_stops_neither_source_nor_feed(plane: ControlPlane, own_postgres: OwnPostgres) -> None:
    """Policy source and change feed raise StoreUnavailable soon while nothing answers, and recover by themselves."""
    key, _ = await plane.keys.create("ada", key_draft())
    source, feed = PostgresPolicySource(plane.database), PostgresChangeFeed(plane.database)
    position = await feed.position()
    await source.fetch([key.key_id])
    own_postgres.freeze()

    began = monotonic()
    with pytest.raises(StoreUnavailable):
        await source.fetch([key.key_id])
    assert monotonic() - began < 1
    began = monotonic()
    with pytest.raises(StoreUnavailable):
        await feed.wait(position)
    assert monotonic() - began < 2.5

    own_postgres.thaw()
    assert key.key_id in (await source.fetch([key.key_id])).records
    await plane.keys.revoke("ada", key.key_id)
    assert [change.name for change in (await feed.wait(position)).changes] == [key.key_id]
    await feed.close()


async def test_a_restarted_postgres_is_used_without_an_error(plane: ControlPlane, own_postgres: OwnPostgres) -> None:
    """Connections that were lost while they were idle are replaced without an error."""
    port = own_postgres.server.port
    own_postgres.server.stop()
    own_postgres.start_on(port)

    assert (await plane.plans.get("free")).name == "free"
    assert await plane.tokens.create("console", Role.ADMIN)


async def test_a_missing_schema_is_reported_with_its_remedy(empty_database_url: Callable[[], str]) -> None:
    """On a database that was never migrated the error names the command that migrates it."""
    database = Database(empty_database_url())
    try:
        with pytest.raises(Unavailable, match="ratelimit-service migrate"):
            await ControlPlane(database).plans.get("free")
    finally:
        await database.close()


async def test_a_missing_database_is_reported_by_name(database_url: str) -> None:
    """With a URL of a database that does not exist the error names it, without the password."""
    password = database_url.split(":")[2].split("@", maxsplit=1)[0]
    database = Database(database_url.rpartition("/")[0] + "/nowhere")
    try:
        with pytest.raises(Unavailable, match="nowhere") as caught:
            await ControlPlane(database).plans.get("free")
        assert password not in str(caught.value)
    finally:
        await database.close()
