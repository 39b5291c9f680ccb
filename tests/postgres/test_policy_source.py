"""The policy source reads what the services have written, and a bad row affects its own key only."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from fixtures.control_plane import BURST, DAILY, DAY, SECOND, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.decision.known_keys import KnownKeys
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.decision.record import KeyState, OnStoreFailure, Override, PolicyRecord
from ratelimit_service.management.keys import KeyChanges
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.policy_source import PostgresPolicySource
from ratelimit_service.postgres.unreadable_rows import UnreadableRows


@pytest.fixture
def source(database: Database) -> PostgresPolicySource:
    """Return a source on this test's database."""
    return PostgresPolicySource(database)


async def test_a_record_has_everything(control_plane: ControlPlane, source: PostgresPolicySource) -> None:
    """A key is read with its state, secrets, plan in force, and the overrides of its subject and its own."""
    await control_plane.plans.create("ada", plan_draft())
    await control_plane.plans.update(
        "ada", "free", PlanChanges(limits=(DAILY, BURST), on_store_failure=OnStoreFailure.DENY)
    )
    key, _ = await control_plane.keys.create("ada", key_draft(expires_us=START + DAY))
    key, _ = await control_plane.keys.rotate("ada", key.key_id, overlap_us=SECOND)
    await control_plane.overrides.set("ada", OverrideTarget(Level.SUBJECT, "acme"), Override(BURST, START + SECOND))
    await control_plane.overrides.set("ada", OverrideTarget(Level.KEY, key.key_id), Override(DAILY))

    fetched = await source.fetch([key.key_id])

    assert not fetched.unreadable
    assert fetched.records == {
        key.key_id: PolicyRecord(
            key_id=key.key_id,
            subject="acme",
            state=KeyState.ACTIVE,
            expires_us=START + DAY,
            secrets=key.secrets,
            plan="free",
            plan_version=2,
            on_store_failure=OnStoreFailure.DENY,
            limits=(DAILY, BURST),
            subject_overrides=(Override(BURST, START + SECOND),),
            key_overrides=(Override(DAILY),),
        )
    }


async def test_the_keys_of_a_plan_share_its_limits(control_plane: ControlPlane, source: PostgresPolicySource) -> None:
    """The limits of a version are the same objects in the records of all its keys, whichever are read together."""
    keys = []
    for name, limit in (("free", BURST), ("pro", DAILY)):
        await control_plane.plans.create("ada", plan_draft(name, limit))
        keys += [(await control_plane.keys.create("ada", key_draft(plan=name)))[0].key_id for _ in range(2)]
    first, later = (await source.fetch(keys)).records, (await source.fetch(keys[::3])).records

    limits = [first[key_id].limits for key_id in keys] + [later[key_id].limits for key_id in keys[::3]]
    assert [one[0] for one in limits] == [BURST, BURST, DAILY, DAILY, BURST, DAILY]
    assert len({id(one) for one in limits}) == 2


async def test_limits_changed_by_hand_are_read(
    control_plane: ControlPlane, source: PostgresPolicySource, database_url: str
) -> None:
    """Limits that somebody changes in the row of a version, which the service never does, are in force all the same."""
    for name, limit in (("free", BURST), ("pro", DAILY)):
        await control_plane.plans.create("ada", plan_draft(name, limit))
    key, _ = await control_plane.keys.create("ada", key_draft())
    assert (await source.fetch([key.key_id])).records[key.key_id].limits == (BURST,)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE plan_versions SET limits = other.limits FROM plan_versions AS other"
            " WHERE other.plan_id = (SELECT plan_id FROM plans WHERE name = 'pro')"
        )
    assert (await source.fetch([key.key_id])).records[key.key_id].limits == (DAILY,)


async def test_many_keys_are_read_at_once(control_plane: ControlPlane, source: PostgresPolicySource) -> None:
    """Each of many keys is read with its own subject's overrides; unknown ones are left out."""
    await control_plane.plans.create("ada", plan_draft())
    made = {s: (await control_plane.keys.create("ada", key_draft(s)))[0].key_id for s in ("a", "b", "c")}
    await control_plane.overrides.set("ada", OverrideTarget(Level.SUBJECT, "b"), Override(BURST))

    fetched = await source.fetch([*made.values(), "0123456789abcdef"])

    assert set(fetched.records) == set(made.values())
    assert not fetched.unreadable
    assert {record.subject: record.subject_overrides for record in fetched.records.values()} == {
        "a": (),
        "b": (Override(BURST),),
        "c": (),
    }


async def test_revoked_and_suspended_keys_are_read(control_plane: ControlPlane, source: PostgresPolicySource) -> None:
    """Keys that are refused have records too, even when their plan was deleted since."""
    await control_plane.plans.create("ada", plan_draft("free"))
    await control_plane.plans.create("ada", plan_draft("pro"))
    revoked, _ = await control_plane.keys.create("ada", key_draft(plan="pro"))
    suspended, _ = await control_plane.keys.create("ada", key_draft())
    await control_plane.keys.revoke("ada", revoked.key_id)
    await control_plane.keys.suspend("ada", suspended.key_id)
    await control_plane.plans.delete("ada", "pro")

    records = (await source.fetch([revoked.key_id, suspended.key_id])).records

    assert records[revoked.key_id].state is KeyState.REVOKED
    assert records[suspended.key_id].state is KeyState.SUSPENDED


@pytest.mark.parametrize("key_ids", [[], ["a\0b"], ["é" * 16], ["'; DROP TABLE keys; --"], [""]])
async def test_what_cannot_be_an_id_is_unknown(source: PostgresPolicySource, key_ids: list[str]) -> None:
    """Ids that no key can have are unknown, and never disturb Postgres."""
    fetched = await source.fetch(key_ids)

    assert not fetched.records
    assert not fetched.unreadable


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE plan_versions SET limits = '[{}]'",
        "UPDATE plan_versions SET limits = '{}'::jsonb || '\"x\"'",
        "UPDATE plan_versions SET limits = jsonb_set(limits, '{0,token_bucket,capacity}', '0')",
        "UPDATE plan_versions SET limits = jsonb_set(limits, '{0,mode}', '\"maybe\"')",
        "UPDATE plan_versions SET limits = jsonb_set(limits, '{0,resource}', '7')",
        "UPDATE plans SET version = 7",
        "UPDATE overrides SET limit_document = '{}'",
    ],
)
async def test_a_bad_row_is_refused_alone(
    control_plane: ControlPlane, source: PostgresPolicySource, database_url: str, damage: str
) -> None:
    """A key with rows that are not a valid policy is reported as unreadable; the others are read."""
    await control_plane.plans.create("ada", plan_draft("free"))
    bad, _ = await control_plane.keys.create("ada", key_draft("bad"))
    await control_plane.overrides.set("ada", OverrideTarget(Level.KEY, bad.key_id), Override(BURST))
    with psycopg.connect(database_url) as connection:
        connection.execute(damage.encode())
    await control_plane.plans.create("ada", plan_draft("pro"))
    good, _ = await control_plane.keys.create("ada", key_draft("good", plan="pro"))

    fetched = await source.fetch([bad.key_id, good.key_id])

    assert set(fetched.unreadable) == {bad.key_id}
    assert set(fetched.records) == {good.key_id}


@pytest.mark.usefixtures("warm")
async def test_a_record_is_of_one_moment(control_plane: ControlPlane, source: PostgresPolicySource) -> None:
    """Whatever is changed meanwhile, a record never mixes a plan's version with another version's limits."""
    await control_plane.plans.create("ada", plan_draft("free", BURST))
    await control_plane.plans.create("ada", plan_draft("pro", DAILY))
    key, _ = await control_plane.keys.create("ada", key_draft())

    for n in range(20):
        plan = ("pro", "free")[n % 2]
        update = control_plane.keys.update("ada", key.key_id, KeyChanges(plan=plan))
        fetched, _ = await asyncio.gather(source.fetch([key.key_id]), update)
        record = fetched.records[key.key_id]
        assert record.limits == {"free": (BURST,), "pro": (DAILY,)}[record.plan]


async def test_a_dead_postgres_is_reported(unused_port: int) -> None:
    """A source of a Postgres that does not run raises StoreUnavailable, without the password."""
    database = Database(f"postgresql://somebody:verysecret@127.0.0.1:{unused_port}/none")

    with pytest.raises(StoreUnavailable) as caught:
        await PostgresPolicySource(database).fetch(["0123456789abcdef"])

    assert "verysecret" not in str(caught.value)
    await database.close()


async def test_a_time_that_cannot_be_read_makes_its_own_key_unreadable(
    control_plane: ControlPlane, source: PostgresPolicySource, database_url: str
) -> None:
    """A key that expires at infinity, which somebody wrote past the API, does not disturb those read beside it."""
    await control_plane.plans.create("ada", plan_draft("free"))
    made = [(await control_plane.keys.create("ada", key_draft()))[0].key_id for _ in range(2)]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE keys SET expire_time = 'infinity' WHERE key_id = %s", (made[0],))

    fetched = await source.fetch(made)

    assert set(fetched.unreadable) == {made[0]}
    assert set(fetched.records) == {made[1]}


async def test_ids_are_listed_in_pages(
    control_plane: ControlPlane, source: PostgresPolicySource, database_url: str
) -> None:
    """All ids come once, page by page, in their order; how many are expected is what Postgres estimated last."""
    await control_plane.plans.create("ada", plan_draft("free"))
    made = sorted([(await control_plane.keys.create("ada", key_draft()))[0].key_id for _ in range(5)])

    with psycopg.connect(database_url) as connection:
        connection.execute("ANALYZE keys")
    assert await source.expected_keys() == 5
    pages = [await source.key_ids(after, 2) for after in ("", made[1], made[3], made[4])]

    assert pages == [made[:2], made[2:4], made[4:], []]


async def test_a_list_that_takes_long_delays_no_lookup(migrated_database_url: Callable[[], str]) -> None:
    """While Postgres takes seconds for all ids, a key is looked up as fast as ever, and the list is completed."""
    url = migrated_database_url()
    database = Database(url)
    plane = ControlPlane(database)
    await plane.plans.create("ada", plan_draft("free"))
    key, _ = await plane.keys.create("ada", key_draft())
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time)"
            " SELECT lpad(n::text, 16, '0'), 'acme', plan_id, state, '', 1, create_time, update_time"
            " FROM keys, generate_series(1, 1500) AS n"
        )
        connection.execute("ALTER TABLE keys RENAME TO stored_keys")
        connection.execute("CREATE VIEW keys AS SELECT *, pg_sleep(0.0005)::text AS slow FROM stored_keys")
    source = PostgresPolicySource(database)
    await source.fetch([key.key_id])
    keys = KnownKeys(source)
    keys.hurry()
    keys.load()
    await asyncio.sleep(0.1)
    for _ in range(20):
        began = time.monotonic()
        assert key.key_id in (await source.fetch([key.key_id])).records
        assert time.monotonic() - began < 0.5
    assert keys._loading is not None
    async with asyncio.timeout(20):
        await keys._loading
    assert key.key_id in keys
    assert f"{1500:016}" in keys
    await keys.close()
    await database.close()


async def test_secrets_of_the_previous_version_have_no_environment(
    control_plane: ControlPlane, source: PostgresPolicySource, database_url: str
) -> None:
    """A secret is read with the <env> of its key; one that a server of the previous version writes, without."""
    await control_plane.plans.create("ada", plan_draft("free"))
    key, api_key = await control_plane.keys.create("ada", key_draft())
    (stored,) = (await source.fetch([key.key_id])).records[key.key_id].secrets
    assert stored.environment == api_key.environment
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM key_secrets")
        connection.execute(
            "INSERT INTO key_secrets (key_id, digest, pepper_version, expire_time) VALUES (%s, %s, %s, NULL)",
            (key.key_id, stored.digest, stored.pepper_version),
        )

    (rewritten,) = (await source.fetch([key.key_id])).records[key.key_id].secrets

    assert rewritten == replace(stored, environment=None)


async def test_a_repaired_row_is_unreadable_no_more(
    control_plane: ControlPlane, database: Database, database_url: str
) -> None:
    """A row counts as unreadable until it is read once: a plan's until a new version of it is."""
    unreadable = UnreadableRows()
    source = PostgresPolicySource(database, unreadable)
    await control_plane.plans.create("ada", plan_draft())
    key, _ = await control_plane.keys.create("ada", key_draft())
    await control_plane.overrides.set("ada", OverrideTarget(Level.KEY, key.key_id), Override(BURST))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE plan_versions SET limits = '{}'")
        connection.execute("UPDATE overrides SET limit_document = '{}'")
        connection.execute("UPDATE keys SET expire_time = 'infinity'")
    await source.fetch([key.key_id])
    found = {table for table, count in unreadable.current().items() if count}
    assert found == {"keys", "overrides", "plan_versions"}

    await control_plane.plans.update("ada", "free", PlanChanges(limits=(BURST,)))
    await control_plane.overrides.delete("ada", OverrideTarget(Level.KEY, key.key_id), BURST.name)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE keys SET expire_time = NULL")
    await source.fetch([key.key_id])

    assert not any(unreadable.current().values())
