"""Least rights in Postgres: a role that decides, which reads, and one that manages, which writes."""

from typing import Final

from ratelimit_service.postgres.tables import metadata, schema_compatibility, write_lock
from ratelimit_service.postgres.usage_partitions import KINDS
from ratelimit_service.postgres.usage_tables import LEVELS

DECISION_ROLE: Final = "ratelimit_decision"
CONTROL_ROLE: Final = "ratelimit_control"

DECISION_TABLES: Final = (
    "admin_tokens",
    "changes",
    "enforcement",
    "feed_heartbeat",
    "key_secrets",
    "keys",
    "overrides",
    "plan_versions",
    "plans",
    "rule_domains",
    "rule_versions",
)
"""What decisions, the change feed and the look-up of tokens read. Digests of secrets are among it, and no secret."""

SCHEMA_TABLES: Final = ("alembic_version", schema_compatibility.name)
"""What every server reads at its start: the revision of the schema, and who works on it."""

_APPENDED: Final = ("audit_events", "changes")
"""Tables whose rows nobody changes: they are added, and deleted when they are too old."""

_PARTITIONED: Final = tuple(f"{kind}_{level}" for kind in KINDS for level in LEVELS)
"""Tables of which the control plane creates and drops partitions, which in Postgres only their owner may do."""


def grants() -> str:
    """The statements that give both roles what they need and nothing else, for psql.

    They are to be run after each migration by the role that ran it, and may be run again.
    """
    owned = ", ".join(f"'{name}'::regclass" for name in _PARTITIONED)
    special = {*_APPENDED, *_PARTITIONED, write_lock.name, schema_compatibility.name}
    written = [name for name in sorted(metadata.tables) if name not in special]
    lines = [
        "-- Once, by a role with CREATEROLE; choose the passwords:",
        f"--   CREATE ROLE {DECISION_ROLE} LOGIN PASSWORD '...';",
        f"--   CREATE ROLE {CONTROL_ROLE} LOGIN PASSWORD '...';",
        "-- After each migration, by the role that ran it:",
        "BEGIN;",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        f"GRANT USAGE ON SCHEMA public TO {DECISION_ROLE}, {CONTROL_ROLE};",
        f"-- RATELIMIT_DECISION_DATABASE_URL: {DECISION_ROLE} reads. To be counted as a live server it takes an",
        "-- advisory lock and reads pg_locks, and it listens for notifications; none of these needs a right. A server",
        "-- with RATELIMIT_PLANE=decision needs no other role.",
        f"GRANT SELECT ON {', '.join((*DECISION_TABLES, *SCHEMA_TABLES))} TO {DECISION_ROLE};",
        f"-- RATELIMIT_DATABASE_URL: {CONTROL_ROLE} manages keys and plans, and keeps usage.",
        f"GRANT SELECT ON {', '.join(SCHEMA_TABLES)} TO {CONTROL_ROLE};",
        f"GRANT SELECT, INSERT, DELETE ON {', '.join(_APPENDED)} TO {CONTROL_ROLE};",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join(written)} TO {CONTROL_ROLE};",
        f"GRANT SELECT, UPDATE ON {write_lock.name} TO {CONTROL_ROLE};",
        "-- The tables of usage are its own, with CREATE in the schema: it creates and drops their partitions.",
        f"GRANT CREATE ON SCHEMA public TO {CONTROL_ROLE};",
        f"GRANT {CONTROL_ROLE} TO CURRENT_USER;",
        *(f"ALTER TABLE {name} OWNER TO {CONTROL_ROLE};" for name in _PARTITIONED),
        "DO $$ DECLARE part regclass; BEGIN",
        f"  FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent IN ({owned}) LOOP",  # noqa: S608
        f"    EXECUTE format('ALTER TABLE %s OWNER TO {CONTROL_ROLE}', part);",
        "  END LOOP;",
        "END $$;",
        "COMMIT;",
    ]
    return "\n".join(lines) + "\n"
