"""When the certificates in a PEM file end. The standard library says so of a peer's certificate alone."""

import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # `doctor` reads certificates of others, and no settings
    from ratelimit_service.settings import Settings

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# Tags of DER (X.690) in the head of a certificate (RFC 5280, 4.1).
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18

_LONG: Final = 0x80
"""The bit in the first byte of a length that says that the length follows, in as many bytes as its other bits say."""

_BEFORE_VALIDITY: Final = 3
"""Fields between the version, which may be left out, and the validity: serial number, algorithm, issuer."""

_FIRST_OF_1900S: Final = "50"
"""The two digits of a year from which on it is one before 2000."""


def certificate_files(settings: "Settings") -> Mapping[str, Path]:
    """The files whose certificates a server serves, or checks clients by: by the names of their settings."""
    files = {"RATELIMIT_TLS_CERTIFICATE": settings.tls_certificate, "RATELIMIT_TLS_CLIENT_CA": settings.tls_client_ca}
    return {setting: file for setting, file in files.items() if file is not None}


def first_ends(files: Mapping[str, Path]) -> dict[str, int]:
    """When the certificates of each file are no longer good, in seconds since 1970: when the first of them ends.

    A file that cannot be read, or has none, is left out.
    """
    found = {}
    for setting, file in files.items():
        with suppress(OSError, ValueError):  # ValueError: also one that has no certificate
            found[setting] = int(min(certificate_ends(file)).timestamp())
    return found


def certificate_ends(file: Path) -> list[datetime]:
    """The time at which each certificate in FILE ends, in their order.

    Raises OSError if the file cannot be read, and ValueError if a certificate in it cannot.
    """
    blocks = _PEM.findall(file.read_text(encoding="ascii", errors="replace"))
    return [end_of(ssl.PEM_cert_to_DER_cert(block)) for block in blocks]


def end_of(der: bytes) -> datetime:
    """The time at which a certificate ends. Raises ValueError if it cannot be read."""
    _, at, _ = _field(der, 0)  # the certificate
    _, at, _ = _field(der, at)  # what is signed of it
    tag, _, after = _field(der, at)
    if tag == _VERSION:
        at = after
    for _ in range(_BEFORE_VALIDITY):
        _, _, at = _field(der, at)
    _, begin, _ = _field(der, at)  # the validity
    _, _, at = _field(der, begin)  # when it begins
    tag, start, stop = _field(der, at)
    text = der[start:stop].decode("ascii", "replace")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= _FIRST_OF_1900S else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"the end of a certificate has the tag {tag:#x}, which is none of a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _field(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the field that begins at AT, and where its content begins and ends."""
    head = der[at : at + 2]
    if len(head) == 2:  # noqa: PLR2004  a tag and a length
        tag, length = head
        start = at + 2
        if length & _LONG:
            digits = der[start : start + (length & ~_LONG)]
            start += len(digits)
            length = int.from_bytes(digits, "big")
        if start + length <= len(der):
            return tag, start, start + length
    raise ValueError("a certificate ends in the middle of a field")
