"""Times that forms ask for: after a while, at a time in UTC, or never."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from ratelimit_service.console.forms import Fields
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.errors import InvalidArgument

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final[Mapping[str, int]] = {"m": 60, "h": 3_600, "d": 86_400}

AT: Final = "at"
"""The choice of a time, which stands in a field of its own."""

NEVER: Final = "never"
"""The choice of no end."""


def chosen_time(form: Fields, name: str, now_us: int) -> int | None:
    """Return the time that a form chooses in NAME (`1h`, `30d`, `at`, `never`), with `<name>_at` for `at`.

    Microseconds since 1970 UTC, None for never. Raises InvalidArgument (field `<name>` or `<name>_at`).
    """
    choice = form.text(name)
    if choice in {"", NEVER}:
        return None
    if choice == AT:
        return _parse(form.text(f"{name}_at"), f"{name}_at")
    number, unit = choice[:-1], choice[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()) or len(number) > 5:  # noqa: PLR2004  bounded
        raise InvalidArgument.of(name, f"is {choice[:20]!r}; choose one of the list")
    return now_us + int(number) * _UNITS[unit] * MICRO


def optional_time(text: str, field: str) -> int | None:
    """Read a time in UTC, in microseconds since 1970. None if it is empty. Raises InvalidArgument (FIELD)."""
    return _parse(text, field) if text else None


def time_input(time_us: int) -> str:
    """A time as an input for times holds it: `2026-11-25T15:26`."""
    return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%dT%H:%M}"


def _parse(text: str, field: str) -> int:
    try:
        moment = datetime.fromisoformat(text.removesuffix("Z").replace(" ", "T"))
    except ValueError:
        raise InvalidArgument.of(field, "is not a time; write it as 2026-11-25 15:26, in UTC") from None
    if moment.tzinfo is not None:
        raise InvalidArgument.of(field, "has an offset; write the time in UTC, without one")
    return (moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
