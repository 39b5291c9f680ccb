"""The database, for commands that need no server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import SecretStr, ValidationError

from ratelimit_service.cli.fault import Exit, Fault
from ratelimit_service.decision.ports import StoreUnavailable
from ratelimit_service.devstores.state import DevState, read_peppers
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable
from ratelimit_service.postgres.database import Database
from ratelimit_service.postgres.unit_of_work import PostgresTransactions
from ratelimit_service.settings import Settings

STORE_SETTINGS = ("database_url", "redis_url", "peppers")
"""The settings that `dev` fills in by itself."""


def load_settings(**options: object) -> Settings:
    """Read the settings from the environment; OPTIONS that are not None go before it. Raises Fault."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise Fault(Exit.USAGE, tuple(describe_setting_faults(error))) from None


def describe_setting_faults(error: ValidationError) -> list[str]:
    """One line for each setting that is wrong, with its value unless that is a secret."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        name = str(fault["loc"][0])
        value = "" if Settings.model_fields[name].annotation is SecretStr else f" is {fault['input']!r}"
        lines.append(f"{variable(name)}{value}: {fault['msg'][0].lower()}{fault['msg'][1:]}")
    return lines


def variable(name: str) -> str:
    """The environment variable that the setting NAME is read from."""
    return f"RATELIMIT_{name.upper()}"


def with_dev_stores(settings: Settings) -> Settings:
    """The same settings; what they lack of Postgres, Redis and peppers is taken from what `dev` left here, if it did.

    Raises Fault when what `dev` left cannot be read.
    """
    try:
        dev = DevState.read(settings.data_dir)
        found = {} if dev is None else _stores(dev, settings.data_dir)
    except ValueError as error:
        raise Fault.usage(str(error)) from None
    missing = {name: found[name] for name in found if not getattr(settings, name).get_secret_value()}
    return settings.model_copy(update=missing)


def _stores(dev: DevState, data_dir: Path) -> dict[str, SecretStr]:
    return {
        "database_url": SecretStr(dev.database_url),
        "redis_url": SecretStr(dev.redis_url),
        "peppers": SecretStr(read_peppers(data_dir)),
    }


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
