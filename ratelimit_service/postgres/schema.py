"""The schema that a database has, and whether this version of the service works on it.

Without Alembic, so that only who migrates loads that: a server has several processes, and each asks once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, create_engine, text

from ratelimit_service.postgres.database import parse_url
from ratelimit_service.postgres.failures import translate_failures

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_CONNECT_SECONDS = 5

_EXISTS = text("SELECT to_regclass(:table) IS NOT NULL")
_REVISION = text("SELECT version_num FROM alembic_version")
_WORKS_SINCE = text("SELECT works_since FROM schema_compatibility WHERE revision = :revision")


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
    """Return the schema that the database has. Raises StoreUnavailable, and ValueError when the URL is malformed."""
    with connected(url) as connection:
        revision = revision_of(connection)
        if revision is None or not is_newer(revision) or not _exists(connection, "schema_compatibility"):
            return Schema(revision)
        return Schema(revision, connection.scalar(_WORKS_SINCE, {"revision": revision}))


def current(url: str) -> str | None:
    """Return the revision that the database is at, None when it has no schema yet. Raises like `read_schema`."""
    return read_schema(url).revision


def is_newer(revision: str) -> bool:
    """Whether a revision is of a newer version of the service: one that this version does not know."""
    return revision not in revisions()


@cache
def revisions() -> tuple[str, ...]:
    """Return the revisions that this version knows, the oldest first: the names of their files begin with them."""
    return tuple(sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py")))


def head() -> str:
    """Return the revision that this version of the service needs, or a newer one."""
    if not revisions():
        raise RuntimeError("this installation has no migrations; install the service again")
    return revisions()[-1]


def revision_of(connection: Connection) -> str | None:
    """Return the revision that the database of CONNECTION is at, None when it has no schema yet."""
    return connection.scalar(_REVISION) if _exists(connection, "alembic_version") else None


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Connect to a database. Raises StoreUnavailable, and ValueError when the URL is malformed."""
    engine = create_engine(parse_url(url), connect_args={"connect_timeout": _CONNECT_SECONDS}, hide_parameters=True)
    try:
        with translate_failures(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _exists(connection: Connection, table: str) -> bool:
    return bool(connection.scalar(_EXISTS, {"table": table}))
