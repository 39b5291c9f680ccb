"""Bringing the schema up to date."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
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

_log = structlog.stdlib.get_logger(__name__)


def upgrade(url: str) -> None:
    """Run the migrations that the database lacks, all in one transaction. Several servers may do so concurrently.

    A schema that is newer than this version of the service is left as it is: see `is_newer`.

    Raises StoreUnavailable, and ValueError when the URL is malformed.
    """
    with _connected(url) as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATORS})
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and is_newer(found):
            _log.warning("the database's schema is newer than this program and is left as it is", revision=found)
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(url: str) -> str | None:
    """Return the revision that the database is at, None when it has no schema yet. Raises like `upgrade`."""
    with _connected(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def is_newer(revision: str) -> bool:
    """Whether a schema's revision is of a newer version of the service: one that this version does not know.

    Migrations only expand, so this version works on it.
    """
    return all(script.revision != revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def head() -> str:
    """Return the revision that this version of the service needs, or a newer one."""
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
