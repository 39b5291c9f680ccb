"""The tables, as the migrations create them; a test compares the two."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Microseconds(TypeDecorator[int]):
    """A point in time, as microseconds since 1970 UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  its interface
        """Return the value for Postgres."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002  its interface
        """Return the value for the domain."""
        return None if value is None else (value - _EPOCH) // _TICK


metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

_NAME = Text(collation="C")  # names are listed in the order of their bytes, whatever the database's language
_NO_FIELDS = text("'{}'::jsonb")

plans = Table(
    "plans",
    metadata,
    Column("plan_id", BigInteger, Identity(always=True), primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("version", BigInteger, nullable=False, comment="The one in force."),
    Column("create_time", Microseconds, nullable=False),
    Column("delete_time", Microseconds, comment="Kept for the revoked keys that were on it; its name is free again."),
    Index("plans_name_key", "name", unique=True, postgresql_where=text("delete_time IS NULL")),
)

plan_versions = Table(
    "plan_versions",
    metadata,
    Column("plan_id", BigInteger, ForeignKey("plans.plan_id"), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("limits", JSONB, nullable=False, comment="A list of limits, in the plan's order."),
    Column("on_store_failure", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("create_time", Microseconds, nullable=False),
    PrimaryKeyConstraint("plan_id", "version"),
    CheckConstraint("on_store_failure IN ('local', 'allow', 'deny')", name="on_store_failure"),
)

keys = Table(
    "keys",
    metadata,
    Column("key_id", _NAME, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True, comment="Order of creation."),
    Column("subject", Text, nullable=False),
    Column("plan_id", BigInteger, ForeignKey("plans.plan_id"), nullable=False),
    Column("state", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, comment="Counts the changes."),
    Column("create_time", Microseconds, nullable=False),
    Column("update_time", Microseconds, nullable=False),
    Column("expire_time", Microseconds),
    Column("labels", JSONB, nullable=False, server_default=_NO_FIELDS, comment="Texts by name."),
    CheckConstraint("state IN ('active', 'suspended', 'revoked')", name="state"),
    Index(None, "subject", "number"),
    Index(None, "plan_id", "number"),
    Index(None, "state", "number"),
    Index("keys_subject_prefix_idx", "subject", postgresql_ops={"subject": "text_pattern_ops"}),
    Index(None, "expire_time", postgresql_where=text("expire_time IS NOT NULL")),
    Index(None, "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
)

key_secrets = Table(
    "key_secrets",
    metadata,
    Column("key_id", _NAME, nullable=False),
    Column("digest", LargeBinary, nullable=False, comment="HMAC-SHA256 under the pepper of this version."),
    Column("pepper_version", Integer, nullable=False),
    Column("expire_time", Microseconds, comment="Absent for the current one."),
    Column(
        "environment",
        Text,
        comment="The <env> in the key, rlk_<env>_<id>_<secret>. Absent for secrets of earlier versions: any.",
    ),
    PrimaryKeyConstraint("key_id", "digest"),
    ForeignKeyConstraint(["key_id"], ["keys.key_id"]),
)

rule_domains = Table(
    "rule_domains",
    metadata,
    Column("domain_id", BigInteger, Identity(always=True), primary_key=True),
    Column("domain", _NAME, nullable=False),
    Column("version", BigInteger, nullable=False, comment="The one in force."),
    Column("create_time", Microseconds, nullable=False),
    Column("delete_time", Microseconds, comment="Kept for its versions; its name is free again."),
    Index("rule_domains_domain_key", "domain", unique=True, postgresql_where=text("delete_time IS NULL")),
)

rule_versions = Table(
    "rule_versions",
    metadata,
    Column("domain_id", BigInteger, ForeignKey("rule_domains.domain_id"), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("descriptors", JSONB, nullable=False, comment="The tree of rules, in its order."),
    Column("on_store_failure", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("create_time", Microseconds, nullable=False),
    Column("limit_count", Integer, comment="Limits on all levels: only where it is 0 may there be none."),
    Column("charge", Text, comment="Null is if_allowed."),
    Column("hold", BigInteger, comment="Microseconds for which calls with an API key are reserved. Null: not at all."),
    PrimaryKeyConstraint("domain_id", "version"),
    CheckConstraint("on_store_failure IN ('fail', 'local', 'allow', 'deny')", name="on_store_failure"),
    CheckConstraint("charge IN ('if_allowed', 'always')", name="charge"),
)

write_lock = Table(
    "write_lock",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    CheckConstraint("only_row", name="only_row"),
    comment="Whoever adds to keys, audit_events or changes locks its row first: so their numbers are in commit order.",
)

feed_heartbeat = Table(
    "feed_heartbeat",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("time", Microseconds, nullable=False),
    CheckConstraint("only_row", name="only_row"),
    comment="Renewed once a second by a control plane, and read with changes: so readers know how old they are.",
)

schema_compatibility = Table(
    "schema_compatibility",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("revision", Text, nullable=False),
    Column("works_since", Text, nullable=False),
    CheckConstraint("only_row", name="only_row"),
    comment="Programs that need revision works_since or a later one work on the schema of this revision.",
)

overrides = Table(
    "overrides",
    metadata,
    Column("level", Text, nullable=False),
    Column("target", _NAME, nullable=False, comment="A key_id or a subject."),
    Column("limit_name", _NAME, nullable=False),
    Column("limit_document", JSONB, nullable=False),
    Column("expire_time", Microseconds),
    PrimaryKeyConstraint("level", "target", "limit_name"),
    CheckConstraint("level IN ('key', 'subject')", name="level"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("event_id", BigInteger, Identity(always=True), primary_key=True),
    Column("time", Microseconds, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    Column(
        "previous",
        JSONB,
        nullable=False,
        server_default=_NO_FIELDS,
        comment="The values before, of the fields that changed.",
    ),
    Index(None, "target", "event_id"),
    Index(None, "actor", "event_id"),
    Index(None, "action", "event_id"),
    Index(None, "time"),
    Index("audit_events_target_prefix_idx", "target", postgresql_ops={"target": "text_pattern_ops"}),
)

admin_tokens = Table(
    "admin_tokens",
    metadata,
    Column("token_id", _NAME, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, comment="SHA-256 of the token."),
    Column("create_time", Microseconds, nullable=False),
    Column("revoke_time", Microseconds),
    CheckConstraint("role IN ('viewer', 'admin', 'gateway')", name="role"),
    Index("admin_tokens_name_key", "name", unique=True, postgresql_where=text("revoke_time IS NULL")),
)

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("digest", LargeBinary, primary_key=True, comment="SHA-256 of the value in the cookie."),
    Column("token_id", _NAME, ForeignKey("admin_tokens.token_id"), nullable=False),
    Column("create_time", Microseconds, nullable=False),
    Column("expire_time", Microseconds, nullable=False),
)

enforcement = Table(
    "enforcement",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("off_until", Microseconds, comment="No limit refuses before. Absent: limits refuse."),
    Column("actor", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("update_time", Microseconds, nullable=False),
    CheckConstraint("only_row", name="only_row"),
    CheckConstraint("off_until > update_time AND off_until <= update_time + interval '24 hours'", name="off_until"),
    CheckConstraint(
        "update_time >= to_timestamp(0) AND update_time < timestamptz '9000-01-01 00:00:00+00'", name="update_time"
    ),
)

CHANGES_CHANNEL = "ratelimit_changes"
"""The channel that is notified when there are new rows in `changes`."""

changes = Table(
    "changes",
    metadata,
    Column("number", BigInteger, Identity(always=True), primary_key=True, comment="Counts up in the order of commits."),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("time", Microseconds, nullable=False),
    CheckConstraint("kind IN ('key', 'subject', 'plan', 'domain')", name="kind"),
)
