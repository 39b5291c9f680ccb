"""Times: `timestamptz` in Postgres, microseconds since 1970 UTC in the domain, exactly."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Microseconds(TypeDecorator[int]):
    """A point in time, as a whole number."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  its interface
        """Return what Postgres is given."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002  its interface
        """Return what the domain is given."""
        return None if value is None else (value - _EPOCH) // _TICK
