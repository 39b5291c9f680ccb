"""Migrations create the schema that the tables describe, once, however many servers run them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import create_engine, text

from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.postgres import alert_tables, usage_tables  # noqa: F401  add their tables to the metadata
from ratelimit_service.postgres.database import parse_url
from ratelimit_service.postgres.migrate import _config, upgrade, works_since
from ratelimit_service.postgres.schema import current, head, revisions
from ratelimit_service.postgres.tables import metadata


def test_the_schema_is_made_from_nothing(empty_database_url: Callable[[], str]) -> None:
    """An empty database has no revision before, and the newest one after."""
    url = empty_database_url()
    assert current(url) is None

    upgrade(url)

    assert current(url) == head()


def test_a_second_run_changes_nothing(postgres_url: str) -> None:
    """Migrating a database that is up to date succeeds and keeps what is in it."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("INSERT INTO changes (kind, name, time) VALUES ('plan', 'kept', now())")

        upgrade(postgres_url)

        assert connection.execute("SELECT count(*) FROM changes WHERE name = 'kept'").fetchone() == (1,)


def test_servers_that_start_at_once_migrate_once(empty_database_url: Callable[[], str]) -> None:
    """Several migrations of one empty database at the same time all succeed."""
    url = empty_database_url()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [url] * 4))

    assert current(url) == head()


def test_the_tables_are_what_the_migrations_make(postgres_url: str) -> None:
    """Alembic finds no difference between the migrated schema and the tables of the code."""
    engine = create_engine(parse_url(postgres_url))
    with engine.connect() as connection:
        partitions = set(connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition")))
        opts = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: kind != "table" or name not in partitions,
        }
        context = MigrationContext.configure(connection, opts=opts)
        differences = compare_metadata(context, metadata)
    engine.dispose()

    assert differences == []


def test_the_last_step_back_leaves_nothing(empty_database_url: Callable[[], str]) -> None:
    """Downgrading from the first revision drops every table that it made."""
    url = empty_database_url()
    upgrade(url)
    _migrate(url, lambda config: command.downgrade(config, "base"))

    with psycopg.connect(url) as connection:
        left = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert left == [("alembic_version",)]


def test_what_was_migrated_is_marked_with_the_versions_that_work_on_it(empty_database_url: Callable[[], str]) -> None:
    """The mark names the schema's revision, and the strictest of what its migrations are compatible with."""
    url = empty_database_url()
    upgrade(url)
    with psycopg.connect(url) as connection:
        marks = connection.execute("SELECT revision, works_since FROM schema_compatibility").fetchall()
    assert marks == [(head(), works_since())]
    named = [getattr(script.module, "compatible_with", script.revision) for script in _scripts()]
    assert works_since() == max(named)
    assert works_since() == "0010", "a migration that earlier versions do not work on needs a line in CHANGELOG.md"


def test_revisions_are_what_the_files_are_named_by() -> None:
    """Servers know the revisions by the names of files, and Alembic by what is in these."""
    assert list(revisions()) == [script.revision for script in reversed(_scripts())]


def test_each_migration_says_which_versions_work_on_it() -> None:
    """From 0011 on a migration names an earlier revision whose programs work on the schema, or its own."""
    later = [script for script in _scripts() if script.revision > "0010"]
    assert later
    for script in later:
        assert "0010" <= script.module.compatible_with <= script.revision, script.revision


def test_roles_from_before_may_do_with_new_tables_what_they_may_with_those_before(
    empty_database_url: Callable[[], str],
) -> None:
    """A server whose roles were given their rights before a migration goes on working after it."""
    url, reader, writer = empty_database_url(), f"reader_{uuid4().hex}", f"writer_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        _migrate(url, lambda config: command.upgrade(config, "0010"))
        connection.execute(f"CREATE ROLE {reader}".encode())
        connection.execute(f"CREATE ROLE {writer}".encode())
        try:
            connection.execute(f"GRANT SELECT ON changes, usage_segments TO {reader}, {writer}".encode())
            connection.execute(f"GRANT INSERT ON changes, usage_segments TO {writer}".encode())
            upgrade(url)
            for table in ("enforcement", "feed_heartbeat", "store_markers"):
                for right, who in (("SELECT", reader), ("SELECT", writer), ("INSERT", writer), ("UPDATE", writer)):
                    assert _may(connection, who, table, right), (who, table, right)
                assert not _may(connection, reader, table, "UPDATE")
        finally:
            connection.execute(f"DROP OWNED BY {reader}, {writer}; DROP ROLE {reader}, {writer}".encode())


def _may(connection: psycopg.Connection, who: str, table: str, right: str) -> bool:
    found = connection.execute("SELECT has_table_privilege(%s, %s, %s)", (who, table, right)).fetchone()
    return found == (True,)


def _migrate(url: str, step: Callable[[Config], None]) -> None:
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        step(config)
    engine.dispose()


def _scripts() -> list[Script]:
    return list(ScriptDirectory.from_config(_config()).walk_revisions())


def test_a_dead_postgres_is_reported_without_the_password() -> None:
    """Migrating a server that does not run raises StoreUnavailable; its message holds no password."""
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        upgrade("postgresql://somebody:verysecret@127.0.0.1:1/none")

    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://u:verysecret@h/d", "postgresql://u:verysecret@h:port/d"])
def test_a_malformed_url_is_reported_without_repeating_it(url: str) -> None:
    """A database URL that is not one of Postgres raises ValueError; its message has the right form."""
    with pytest.raises(ValueError, match="postgresql://user:password@host:5432/name") as caught:
        upgrade(url)

    assert "verysecret" not in str(caught.value)
