"""Which faults of the driver mean that Postgres cannot be asked, and how to say so without a secret."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as sqlstate
from sqlalchemy import exc

from ratelimit_service.decision.ports import StoreUnavailable


@contextmanager
def told_as_unavailable() -> Iterator[None]:
    """Raise StoreUnavailable in place of any fault that means that Postgres cannot be asked.

    Other faults, such as a broken constraint, are ours and go through.
    """
    try:
        yield
    except (exc.SQLAlchemyError, psycopg.Error, OSError) as fault:  # TimeoutError is an OSError
        why = _why(fault)
        if why is None:
            raise
        raise StoreUnavailable(f"Postgres cannot be asked: {why}") from fault


def _why(fault: Exception) -> str | None:
    """Say why Postgres cannot be asked. None when that is not what the fault means."""
    cause = fault.orig if isinstance(fault, exc.DBAPIError) and fault.orig is not None else fault
    if isinstance(cause, sqlstate.UndefinedTable | sqlstate.UndefinedColumn):
        return "its schema is missing or old; run `ratelimit-service migrate`"
    if isinstance(cause, sqlstate.InvalidCatalogName):
        return "there is no such database; make it, or correct RATELIMIT_DATABASE_URL"
    broken = isinstance(fault, exc.DBAPIError) and fault.connection_invalidated
    if broken or isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | exc.TimeoutError | OSError):
        lines = str(cause).strip().splitlines()
        return lines[0] if lines else "it did not answer in time"
    return None
