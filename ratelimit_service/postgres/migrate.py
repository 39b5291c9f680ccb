"""Bringing the schema up to date, and finding out whether this version of the service works on it.

Migrations only expand, so most of them leave a schema on which earlier versions work. Each names, as `compatible_with`,
the oldest revision whose programs do. The strictest of them is stored beside the schema, for versions that do not know
its migrations: `Schema.obstacle`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

_MARK = text(
    "INSERT INTO schema_compatibility (revision, works_since) VALUES (:revision, :works_since) "
    "ON CONFLICT (only_row) DO UPDATE SET revision = excluded.revision, works_since = excluded.works_since"
)
_HAS_MARK = text("SELECT to_regclass('schema_compatibility') IS NOT NULL")
_WORKS_SINCE = text("SELECT works_since FROM schema_compatibility WHERE revision = :revision")

_log = structlog.stdlib.get_logger(__name__)


def upgrade(url: str) -> None:
    """Run the migrations that the database lacks, all in one transaction. Several servers may do so concurrently.

    A schema that is newer than this version of the service is left as it is, whether or not this version works on it.

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
        if found != head():
            connection.execute(_MARK, {"revision": head(), "works_since": works_since()})


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of a database. `revision` is None when it has none yet.

    `works_since`: programs that need this revision or a later one work on it. None if that is not known, as before
    revision 0012.
    """

    revision: str | None
    works_since: str | None = None

    @property
    def is_newer(self) -> bool:
        """Whether it was migrated by a newer version of the service: this one does not know its revision."""
        return self.revision is not None and is_newer(self.revision)

    @property
    def obstacle(self) -> str:
        """Why this version of the service does not work on it, and what to do; empty if it does."""
        found, own = f"is at revision {self.revision or 'none'}", head()
        if not self.is_newer:
            needed = f"{found}, this program needs {own}; run `ratelimit-service migrate`"
            return "" if self.revision == own else needed
        if self.works_since is None:
            return (
                f"{found}, which this program, of {own}, does not know and which is not marked as compatible with it; "
                "install the version of ratelimit-service that migrated it, or a newer one"
            )
        if is_newer(self.works_since):
            return (
                f"{found}, on which programs of {self.works_since} or newer work, and this one is of {own}; "
                "install a newer version of ratelimit-service, or restore a backup from before the migration"
            )
        return ""


def read_schema(url: str) -> Schema:
    """Return the schema that the database has. Raises like `upgrade`."""
    with _connected(url) as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None or not is_newer(revision):
            return Schema(revision)
        if not connection.scalar(_HAS_MARK):
            return Schema(revision)
        return Schema(revision, connection.scalar(_WORKS_SINCE, {"revision": revision}))


def current(url: str) -> str | None:
    """Return the revision that the database is at, None when it has no schema yet. Raises like `upgrade`."""
    return read_schema(url).revision


def is_newer(revision: str) -> bool:
    """Whether a revision is of a newer version of the service: one that this version does not know."""
    return revision not in _positions()


def works_since() -> str:
    """Return the oldest revision whose programs work on the schema of this version: the strictest of its migrations.

    A migration that does not name one needs programs that know it.
    """
    positions = _positions()
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    named = [getattr(script.module, "compatible_with", script.revision) for script in scripts]
    return max(named, key=positions.__getitem__)


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


def _positions() -> dict[str, int]:
    """The place of each revision that this version knows, the oldest first."""
    scripts = reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))
    return {script.revision: place for place, script in enumerate(scripts)}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
