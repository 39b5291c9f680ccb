"""The settings, for commands that run without a server."""

from pydantic import SecretStr, ValidationError

from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.devstores.state import DevState, read_peppers
from ratelimit_service.logs import redact
from ratelimit_service.settings import Settings

STORE_SETTINGS = ("database_url", "redis_url", "peppers")
"""The settings that `dev` sets itself."""


def load_settings(**options: object) -> Settings:
    """Read the settings from the environment; OPTIONS that are not None override it. Raises CommandError."""
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise CommandError(Exit.USAGE, *describe_setting_errors(error)) from None


def describe_setting_errors(error: ValidationError) -> list[str]:
    """One line for each invalid setting, with its value unless that is a secret."""
    lines = []
    for each in error.errors(include_url=False, include_context=False):
        name = str(each["loc"][0])
        value = "" if Settings.model_fields[name].annotation is SecretStr else f" is {redact(repr(each['input']))}"
        message = each["msg"].removeprefix("Value error, ")  # of our own validators
        lines.append(f"{variable_name(name)}{value}: {message[0].lower()}{message[1:]}")
    return lines


def variable_name(name: str) -> str:
    """The environment variable that the setting NAME is read from."""
    return f"RATELIMIT_{name.upper()}"


def with_dev_stores(settings: Settings) -> Settings:
    """The same settings; the Postgres, Redis and peppers not set in them are those that `dev` keeps here, if it ran.

    Raises CommandError when the files of `dev` cannot be read.
    """
    try:
        dev = DevState.read(settings.data_dir)
        if dev is None:
            return settings
        kept = {
            "database_url": dev.database_url,
            "redis_url": dev.redis_url,
            "peppers": read_peppers(settings.data_dir),
        }
    except (ValueError, OSError) as error:
        raise CommandError.usage(str(error)) from None
    unset = [name for name in STORE_SETTINGS if not getattr(settings, name).get_secret_value()]
    return settings.model_copy(update={name: SecretStr(kept[name]) for name in unset})
