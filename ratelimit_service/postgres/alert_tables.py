"""The tables of alerts, as migration 0005 creates them."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Identity, Index, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from ratelimit_service.postgres.tables import Microseconds, metadata

alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", BigInteger, Identity(always=True), primary_key=True),
    Column("rule", Text, nullable=False),
    Column("target", Text(collation="C"), nullable=False),
    Column("limit_name", Text(collation="C"), nullable=False),
    Column("level", Integer, nullable=False),
    Column("summary", Text, nullable=False),
    Column("detail", JSONB, nullable=False),
    Column("start_time", Microseconds, nullable=False),
    Column("update_time", Microseconds, nullable=False),
    Column("end_time", Microseconds, comment="Absent while it is firing."),
    Index("alerts_firing_key", "rule", "target", "limit_name", unique=True, postgresql_where=text("end_time IS NULL")),
    Index(None, "end_time", postgresql_where=text("end_time IS NOT NULL")),
)

deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("delivery_id", Text(collation="C"), primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("alert_id", BigInteger, ForeignKey("alerts.alert_id", ondelete="CASCADE"), comment="Absent for a test."),
    Column("event", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("create_time", Microseconds, nullable=False),
    Column("last_time", Microseconds),
    Column("next_time", Microseconds, comment="Present while it is pending."),
    CheckConstraint("state IN ('pending', 'delivered', 'given_up')", name="state"),
    Index(None, "alert_id", "number"),
    Index(None, "next_time", postgresql_where=text("next_time IS NOT NULL")),
    comment="The messages to the webhook.",
)
