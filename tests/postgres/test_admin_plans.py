"""The lists that admins ask for read an index each, however many keys and events there are: Postgres's own plans."""

from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import Select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement, Executable

from fixtures.control_plane import DAY, SECOND, ControlPlane
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.key import Standing
from ratelimit_service.management.key_filter import KeyFilter
from ratelimit_service.management.paging import Paging
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.repositories.audit import event_list
from ratelimit_service.postgres.repositories.keys import key_list

KEYS = 100_000
NOW = 20_000 * DAY
"""The time of the lists, in microseconds since 1970 UTC."""

FILL = (
    """INSERT INTO plans (name, version, create_time)
       SELECT 'p' || n, 1, to_timestamp(0) FROM generate_series(0, 99) n""",
    # 20,000 subjects with 5 keys each, 3 % suspended, 2 % revoked, 5 % expired, 2 of 1,000 teams on two tiers.
    f"""INSERT INTO keys (key_id, subject, plan_id, state, description, revision, create_time, update_time, expire_time,
                          labels)
       SELECT to_char(n * 7919 % {KEYS}, 'FM0000000000000000'), 'subject-' || n % 20000, 1 + n % 100,
              CASE WHEN n % 100 < 3 THEN 'suspended' WHEN n % 100 < 5 THEN 'revoked' ELSE 'active' END, '', 1,
              to_timestamp(0), to_timestamp(0),
              CASE WHEN n % 20 = 10 THEN to_timestamp(20000 * 86400.0 - n) WHEN n % 20 = 11
                   THEN to_timestamp(20000 * 86400.0 + n * 60) END,
              jsonb_build_object('team', 't' || n % 1000, 'tier', (n % 2)::text)
       FROM generate_series(1, {KEYS}) n""",
    """INSERT INTO key_last_used SELECT key_id, to_timestamp(19000 * 86400.0 + number * 600) FROM keys
       WHERE number % 3 > 0""",
    f"""INSERT INTO audit_events (time, actor, action, target, detail)
       SELECT to_timestamp(n * 3600), 'actor-' || n % 200,
              CASE WHEN n % 500 = 0 THEN 'plan.update' ELSE 'key.create' END,
              CASE WHEN n % 500 = 0 THEN 'plans/p' || n % 100 ELSE 'keys/' || n END, '{{}}'
       FROM generate_series(1, {KEYS}) n""",
    "ANALYZE",
)


class Explain(Executable, ClauseElement):
    """EXPLAIN of a statement."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(Explain)
def _compile(element: Explain, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  whatever the compiler passes on
    return "EXPLAIN (FORMAT JSON) " + compiler.process(element.statement, **options)


@pytest.fixture(scope="module")
def filled_url(migrated_database_url: Callable[[], str]) -> str:
    """A database with 100,000 keys and 100,000 events."""
    url = migrated_database_url()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in FILL:
            connection.execute(statement.encode())
    return url


@pytest_asyncio.fixture
async def filled(filled_url: str) -> AsyncIterator[Database]:
    """A pool of connections to that database."""
    database = Database(filled_url)
    yield database
    await database.close()


async def indexes(database: Database, statement: Select[Any]) -> tuple[set[str], set[str]]:
    """The indexes that Postgres reads for a statement, and the tables that it reads as a whole."""
    async with database.reading() as connection:
        plan = (await connection.execute(Explain(statement))).scalar_one()
    found: set[str] = set()
    scanned: set[str] = set()

    def visit(node: Mapping[str, Any]) -> None:
        if "Index Name" in node:
            found.add(node["Index Name"])
        if node["Node Type"] == "Seq Scan":
            scanned.add(node["Relation Name"])
        for child in node.get("Plans", ()):
            visit(child)

    visit(plan[0]["Plan"])
    return found, scanned


@pytest.mark.parametrize(
    ("filters", "fitting"),
    [
        (KeyFilter(), "keys_number_key"),
        (KeyFilter(subject="subject-77"), "keys_subject_number_idx keys_subject_prefix_idx"),
        (KeyFilter(plan="p7"), "keys_plan_id_number_idx"),
        (KeyFilter(standing=Standing.SUSPENDED), "keys_state_number_idx"),
        (KeyFilter(standing=Standing.REVOKED), "keys_state_number_idx"),
        (KeyFilter(standing=Standing.EXPIRED), "keys_expire_time_idx keys_number_key"),
        (KeyFilter(standing=Standing.ACTIVE), "keys_number_key"),
        (KeyFilter(subject_prefix="subject-777"), "keys_subject_prefix_idx"),
        (KeyFilter(labels={"team": "t7"}), "keys_labels_idx"),
        (KeyFilter(labels={"team": "t7", "tier": "1"}), "keys_labels_idx"),
        (KeyFilter(expires_before_us=NOW - 99_000 * SECOND), "keys_expire_time_idx"),
        (KeyFilter(expires_after_us=NOW, expires_before_us=NOW + DAY), "keys_expire_time_idx"),
        (KeyFilter(key_id_prefix="00000000000777"), "keys_pkey"),
        (KeyFilter(used_before_us=19_001 * DAY), "key_last_used_last_used_idx"),
        (KeyFilter(never_used=True), "key_last_used_pkey"),
    ],
)
async def test_each_list_of_keys_uses_an_index(filled: Database, filters: KeyFilter, fitting: str) -> None:
    """Of 100,000 keys, each filter alone finds its page by an index that fits, without reading the table of keys."""
    found, scanned = await indexes(filled, key_list(after=None, count=101, filters=filters, now_us=NOW))
    assert found & set(fitting.split()), found
    assert not scanned & {"keys", "key_last_used"}


@pytest.mark.parametrize(
    ("filters", "fitting"),
    [
        (AuditFilter(), "audit_events_pkey"),
        (AuditFilter(target="keys/77"), "audit_events_target_event_id_idx"),
        (AuditFilter(target_prefix="plans/"), "audit_events_target_prefix_idx audit_events_target_event_id_idx"),
        (AuditFilter(actor="actor-7"), "audit_events_actor_event_id_idx"),
        (AuditFilter(action="plan.update"), "audit_events_action_event_id_idx"),
        (AuditFilter(start_us=100 * DAY, end_us=102 * DAY), "audit_events_time_idx"),
    ],
)
async def test_each_list_of_events_uses_an_index(filled: Database, filters: AuditFilter, fitting: str) -> None:
    """Of 100,000 events, each filter alone finds its page by an index that fits, without reading the table."""
    found, scanned = await indexes(filled, event_list(before=None, count=101, filters=filters))
    assert found & set(fitting.split()), found
    assert not scanned


async def test_lists_of_100_000_keys_are_quick(filled: Database) -> None:
    """Each list of keys takes less than half a second, also those that no index answers alone."""
    plane = ControlPlane(filled)
    plane.clock.us = NOW
    for filters in (
        KeyFilter(standing=Standing.EXPIRED, labels={"tier": "0"}),
        KeyFilter(labels={"tier": "1"}, expires_after_us=NOW),
        KeyFilter(used_before_us=19_001 * DAY, never_used=True, plan="p7"),
        KeyFilter(subject_prefix="subject-", standing=Standing.SUSPENDED),
    ):
        began = monotonic()
        assert (await plane.keys.list(Paging(), filters)).items
        assert monotonic() - began < 0.5
