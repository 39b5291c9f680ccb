"""Bringing the schema up to date.

Migrations only expand, so most of them leave a schema on which earlier versions work. Each names, as `compatible_with`,
the oldest revision whose programs do. The strictest of them is stored beside the schema, for versions that do not know
its migrations: `Schema.obstacle`.
"""

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from ratelimit_service.postgres.schema import MIGRATIONS, connected, head, is_newer, revision_of, revisions

_MIGRATORS = 0x726C_0002
"""The advisory lock that servers starting at the same time take in turn."""

_MARK = text(
    "INSERT INTO schema_compatibility (revision, works_since) VALUES (:revision, :works_since) "
    "ON CONFLICT (only_row) DO UPDATE SET revision = excluded.revision, works_since = excluded.works_since"
)

_log = structlog.stdlib.get_logger(__name__)


def upgrade(url: str) -> None:
    """Run the migrations that the database lacks, all in one transaction. Several servers may do so concurrently.

    A schema that is newer than this version of the service is left as it is, whether or not this version works on it.

    Raises StoreUnavailable, and ValueError when the URL is malformed.
    """
    with connected(url) as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATORS})
        found = revision_of(connection)
        if found is not None and is_newer(found):
            _log.warning("the database's schema is newer than this program and is left as it is", revision=found)
            return
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if found != head():
            connection.execute(_MARK, {"revision": head(), "works_since": works_since()})


def works_since() -> str:
    """Return the oldest revision whose programs work on the schema of this version: the strictest of its migrations.

    A migration that does not name one needs programs that know it.
    """
    scripts = ScriptDirectory.from_config(_config()).walk_revisions()
    named = [getattr(script.module, "compatible_with", script.revision) for script in scripts]
    return max(named, key=revisions().index)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config
