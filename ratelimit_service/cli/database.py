"""The database, for commands that run without a server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.unit_of_work import PostgresTransactions
from ratelimit_service.settings import Settings


def database_url(settings: Settings) -> str:
    """The database's URL. Raises CommandError if it is not set."""
    url = settings.database_url.get_secret_value()
    if not url:
        raise CommandError.usage("RATELIMIT_DATABASE_URL is not set, and `dev` was never started on this folder")
    return url


@asynccontextmanager
async def open_transactions(settings: Settings) -> AsyncIterator[PostgresTransactions]:
    """Transactions on the database, for the length of the block. Raises CommandError if its URL is not set.

    Raises ValueError if the URL is malformed.
    """
    database = Database(database_url(settings))
    try:
        yield PostgresTransactions(database)
    finally:
        await database.close()


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the errors of the database and of the services on it into a CommandError."""
    try:
        yield
    except InvalidArgument as error:
        raise CommandError(Exit.USAGE, *(f"{each.field}: {each.description}" for each in error.violations)) from None
    except (Unavailable, StoreUnavailable) as error:
        raise CommandError(Exit.FAILED, str(error), "run `ratelimit-service doctor` for details") from None
    except ServiceError as error:
        raise CommandError(Exit.REFUSED, str(error)) from None
    except ValueError as error:
        raise CommandError.usage(str(error)) from None
