"""Bringing the schema up to date."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from ratelimit_service.postgres.database import parse_url
from ratelimit_service.postgres.failures import translate_failures

_MIGRATORS = 0x726C_0002
"""The advisory lock that servers starting at the same time take in turn."""

_CONNECT_SECONDS = 5


def upgrade(url: str) -> None:
    """Run the migrations that the database lacks, all in one transaction. Several servers may do so concurrently.

    Raises StoreUnavailable, and ValueError when the URL is malformed.
    """
    with _connected(url) as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATORS})
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(url: str) -> str | None:
    """Return the revision that the database is at, None when it has no schema yet. Raises like `upgrade`."""
    with _connected(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Return the revision that this version of the service needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("this installation has no migrations; install the service again")
    return revision


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(parse_url(url), connect_args={"connect_timeout": _CONNECT_SECONDS}, hide_parameters=True)
    try:
        with translate_failures(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
