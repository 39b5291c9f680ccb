"""The database, for commands that need no server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ratelimit_service.cli.exits import Exit
from ratelimit_service.cli.fault import Fault
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable
from ratelimit_service.settings import Settings
from ratelimit_service.storage.database import Database
from ratelimit_service.storage.unit_of_work import PostgresTransactions


def database_url(settings: Settings) -> str:
    """The database's URL. Raises Fault if it is not set."""
    url = settings.database_url.get_secret_value()
    if not url:
        raise Fault.usage("RATELIMIT_DATABASE_URL is not set, and `dev` was never started on this folder")
    return url


@asynccontextmanager
async def open_transactions(settings: Settings) -> AsyncIterator[PostgresTransactions]:
    """Transactions on the database, for the length of the block. Raises Fault if it is not set or malformed."""
    database = Database(database_url(settings))
    try:
        yield PostgresTransactions(database)
    finally:
        await database.close()


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn what the database and the services on it raise into a Fault."""
    try:
        yield
    except InvalidArgument as error:
        raise Fault(Exit.USAGE, tuple(f"{each.field}: {each.description}" for each in error.violations)) from None
    except (Unavailable, StoreUnavailable) as error:
        raise Fault(Exit.FAILED, (str(error), "`ratelimit-service doctor` says more")) from None
    except ServiceError as error:
        raise Fault(Exit.REFUSED, (str(error),)) from None
    except ValueError as error:
        raise Fault.usage(str(error)) from None
