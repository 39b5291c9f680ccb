"""The tables of usage, as migration 0003 creates them. Those of counts have one partition for each period of time."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from ratelimit_service.postgres.tables import Microseconds, metadata

LEVELS: Final = ("minute", "hour", "day")
"""The lengths of a bin, and the name of the column that has its start."""

COUNTS: Final = ("allowed", "denied", "cost", "shadow_denied", "degraded", "clamped", "reserved", "settled")
"""The columns of counts. Calls are allowed + denied; `degraded`, `shadow_denied` and `reserved` are calls among them,
`clamped` are tokens among `cost`, and `settled` are reservations."""

_LATER: Final = frozenset({"clamped", "reserved", "settled"})
"""Those that servers of versions before them do not write."""

LIMIT_COUNTS: Final = ("denied", "shadow_denied")
"""The columns of counts by limit."""

ALL_HOURS: Final = 2**24 - 1
"""A bit for each hour of a day."""

_NAME = Text(collation="C")

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column(
        "number", BigInteger, nullable=False, comment="Counts the holders; what a former one writes is refused by it."
    ),
    Column("holder", Text, nullable=False),
    Column("expire_time", Microseconds, nullable=False),
)

series = Table(
    "usage_series",
    metadata,
    Column("series_id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "digest",
        LargeBinary,
        nullable=False,
        unique=True,
        comment="Of all that follows, which may be too long for an index.",
    ),
    Column("kind", Text, nullable=False),
    Column("key_id", _NAME, nullable=False),
    Column("resource", _NAME, nullable=False),
    Column("subject", _NAME, nullable=False),
    Column("plan", _NAME, nullable=False),
    Column("domain", _NAME, nullable=False),
    Column("rule", _NAME, nullable=False),
    CheckConstraint("kind IN ('key', 'rule')", name="kind"),
    Index(None, "key_id", postgresql_where=text("kind = 'key'")),
    Index(None, "subject", postgresql_where=text("kind = 'key'")),
    Index(None, "plan", postgresql_where=text("kind = 'key'")),
    Index(None, "resource", postgresql_where=text("kind = 'key'")),
    Index(None, "domain", postgresql_where=text("kind = 'rule'")),
)


def _count_columns(*names: str) -> list[Column[int]]:
    return [
        Column(name, BigInteger, server_default=text("0"))
        if name in _LATER
        else Column(name, BigInteger, nullable=False)
        for name in names
    ]


def _counts(level: str) -> Table:
    constraints: list[Any] = [Index(None, level)]
    if level == "minute":
        constraints.append(Index(None, "series_id", level))
    else:
        constraints.append(PrimaryKeyConstraint("series_id", level))
    hours = (
        Column(
            "hours",
            Integer,
            nullable=False,
            server_default=text(str(ALL_HOURS)),
            comment="The hours of the day that have counts: bit 0 is that from midnight.",
        ),
    )
    return Table(
        f"usage_{level}",
        metadata,
        Column(level, Microseconds, nullable=False),
        Column("series_id", BigInteger, nullable=False),
        *_count_columns(*COUNTS),
        *(hours if level == "day" else ()),
        *constraints,
        postgresql_partition_by=f"RANGE ({level})",
        comment="Several rows of one minute and series add up." if level == "minute" else None,
    )


def _limit_counts(level: str) -> Table:
    constraints: list[Any] = [Index(None, level)]
    if level == "minute":
        constraints.append(Index(None, "series_id", level))
    else:
        constraints.append(PrimaryKeyConstraint("series_id", "limit_name", level))
    return Table(
        f"usage_limit_{level}",
        metadata,
        Column(level, Microseconds, nullable=False),
        Column("series_id", BigInteger, nullable=False),
        Column("limit_name", _NAME, nullable=False),
        *_count_columns(*LIMIT_COUNTS),
        *constraints,
        postgresql_partition_by=f"RANGE ({level})",
        comment="Several rows of one minute, series and limit add up." if level == "minute" else None,
    )


def _plan_counts(level: str) -> Table:
    return Table(
        f"usage_plan_{level}",
        metadata,
        Column(level, Microseconds, nullable=False),
        Column("plan", _NAME, nullable=False),
        Column("domain", _NAME, nullable=False),
        *_count_columns(*COUNTS),
        PrimaryKeyConstraint(level, "plan", "domain"),
        postgresql_partition_by=f"RANGE ({level})",
        comment="All series of a plan, or of the rules of a domain.",
    )


counts_by = {level: _counts(level) for level in LEVELS}
"""Counts of each series, by level."""

limit_counts_by = {level: _limit_counts(level) for level in LEVELS}
"""Denials of each series by limit, by level."""

plan_counts_by = {level: _plan_counts(level) for level in LEVELS}
"""Counts of all series of a plan, or of a domain's rules, by level."""

segments = Table(
    "usage_segments",
    metadata,
    Column("tag", _NAME, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("first_minute", Microseconds, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("fields", BigInteger, nullable=False),
    Column("flush_time", Microseconds, nullable=False),
    PrimaryKeyConstraint("tag", "name"),
    Index(None, "flush_time"),
    Index("usage_segments_tag_flush_time_number_idx", "tag", "flush_time", "number"),
    comment="The segments of the bucket store that were flushed, each once.",
)

losses = Table(
    "usage_losses",
    metadata,
    Column("loss_id", BigInteger, Identity(always=True), primary_key=True),
    Column("time", Microseconds, nullable=False),
    Column("start_time", Microseconds, nullable=False),
    Column("end_time", Microseconds, nullable=False),
    Column("cause", Text, nullable=False),
    Column("calls", BigInteger, nullable=False, comment="How many, 0 when that is not known."),
    Index(None, "end_time"),
    comment="Counts that the bucket store lost with its data.",
)

coverage = Table(
    "usage_coverage",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("complete_until", Microseconds, nullable=False),
    CheckConstraint("only_row", name="only_row"),
    comment="The time before which all that the bucket store has counted is in these tables.",
)

store_markers = Table(
    "store_markers",
    metadata,
    Column("tag", _NAME, primary_key=True),
    Column("marker", Text, nullable=False),
    comment="Of the bucket store when all that was known of quotas was in it. With another one it has lost data.",
)

key_last_used = Table(
    "key_last_used",
    metadata,
    Column("key_id", _NAME, primary_key=True),
    Column("last_used", Microseconds, nullable=False, comment="The start of the last minute with a call."),
    Index(None, "last_used"),
)
