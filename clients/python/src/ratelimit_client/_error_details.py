"""The details of a gRPC status: `google.rpc.Status` with ErrorInfo, BadRequest and RetryInfo."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from ._wire import bytes_field, fields, number_field

DOMAIN = "ratelimit.v1"
"""The domain of our error reasons."""

_TYPES = "type.googleapis.com/google.rpc."
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The details of an error that the client reads."""

    reason: str = ""
    """The `reason` of its ErrorInfo. Empty when it has none."""
    field: str = ""
    """The first field of its BadRequest. Empty when it has none."""

    @classmethod
    def parse(cls, status: bytes | None) -> Self:
        """Read a serialized `google.rpc.Status`. What cannot be read is left empty: the status itself still counts."""
        try:
            found = dict(_details(status or b""))
            info = dict(fields(found.get("ErrorInfo", b"")))
            violation = next((v for n, v in fields(found.get("BadRequest", b"")) if n == 1), b"")
            return cls(_text(info.get(1)), _text(dict(fields(_bytes(violation))).get(1)))
        except ValueError:
            return cls()


def status_with_details(
    code: int, message: str, reason: str, metadata: dict[str, str], retry_delay: timedelta | None
) -> bytes:
    """A serialized `google.rpc.Status` with an ErrorInfo and, if RETRY_DELAY is given, a RetryInfo."""
    info = bytes_field(1, reason.encode()) + bytes_field(2, DOMAIN.encode())
    for key, value in metadata.items():
        info += bytes_field(3, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))
    status = number_field(1, code) + bytes_field(2, message.encode()) + bytes_field(3, _any("ErrorInfo", info))
    if retry_delay is not None:
        seconds, rest = divmod(retry_delay, _SECOND)
        duration = number_field(1, seconds) + number_field(2, rest.microseconds * 1000)
        status += bytes_field(3, _any("RetryInfo", bytes_field(1, duration)))
    return status


def _any(name: str, message: bytes) -> bytes:
    return bytes_field(1, (_TYPES + name).encode()) + bytes_field(2, message)


def _details(status: bytes) -> Iterator[tuple[str, bytes]]:
    """The short name and value of each detail of STATUS."""
    for number, value in fields(status):
        if number == 3:  # noqa: PLR2004  Status.details
            detail = dict(fields(_bytes(value)))
            yield _text(detail.get(1)).removeprefix(_TYPES), _bytes(detail.get(2, b""))


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number instead of a message or a text")  # noqa: TRY004  malformed, like the rest
    return value


def _text(value: int | bytes | None) -> str:
    return _bytes(value or b"").decode()
