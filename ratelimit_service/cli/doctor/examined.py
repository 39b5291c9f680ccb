"""What a running server says of itself on its operations port, as it is read from outside."""

import json
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import time
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from ratelimit_service.cli.errors import CommandError

_SECONDS: Final = 5.0
_MAX_STATUS: Final = 100_000
_MAX_METRICS: Final = 20_000_000
_OK: Final = 200
_SCHEMES: Final = ("http", "https")
_CA_VARIABLE: Final = "RATELIMIT_SERVER_CA"


class NotExamined(Exception):
    """A server could not be examined. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of the server's database. `found` is None if it has none; `is_known` is False if nobody knows."""

    needed: str
    is_known: bool
    found: str | None
    is_newer: bool
    obstacle: str
    """Why the server's program does not work on it; empty if it does."""


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """A PEM file of the server."""

    variable: str
    """The setting that names it."""
    ends: Sequence[datetime]
    """When each certificate in it ends."""
    error: str
    """Why the server cannot read it; empty if it can."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server answers at `/status`: docs/doctor.md has the fields."""

    version: str
    plane: str
    transport: str
    ready: bool
    state: str
    serving: int
    wanted: int
    """Workers that serve, and that should."""
    stores_opened: bool
    silent: Mapping[str, str]
    """What it does that a store does not answer, by the names of those that do not."""
    faults: Mapping[str, str]
    """What is wrong with these, by their names. A server of an earlier version does not say."""
    degraded: Mapping[str, str]
    """Reasons, by mode."""
    reasons: Sequence[str]
    clock_offsets: Mapping[str, float]
    """Seconds by which the clock of a store is ahead of the server's, as far as is known."""
    schema: Schema
    certificates: Sequence[CertificateFile]


@dataclass(frozen=True, slots=True)
class Examined:
    """One server, at one moment."""

    address: str
    """As it was named."""
    facts: Facts
    metrics: Mapping[str, float]
    """Its gauges and counters, each summed over its labels."""
    clock_offset: float
    """Seconds by which its clock is ahead of this machine's, exact to `clock_error`."""
    clock_error: float


def check_address(address: str) -> None:
    """Raise CommandError unless ADDRESS is one that `examine` can be called with."""
    try:
        url = _split(address)
    except ValueError:
        url = None
    if url is None:
        raise CommandError.usage(
            f"--server {address}: write HOST:PORT or https://HOST:PORT, the address of a server's operations port "
            "(RATELIMIT_OPERATIONS_LISTEN)"
        )


def examine(address: str) -> Examined:
    """Read what the server with its operations port at ADDRESS says. Sends no secret. Raises NotExamined."""
    context = _tls_context() if address.startswith("https://") else None
    try:
        facts, offset, error = _facts(address, context)
        text = _get(address, context, "/metrics", _MAX_METRICS)
    except ssl.SSLCertVerificationError as failure:
        raise NotExamined(
            f"its certificate is not accepted: {failure.verify_message}; name its CA in {_CA_VARIABLE}, renew it if it "
            "has ended, or examine it without https://"
        ) from None
    except HTTPException as failure:
        raise NotExamined(
            f"does not answer as an operations port does ({type(failure).__name__}); name the address in "
            "RATELIMIT_OPERATIONS_LISTEN, by default port 9464, not that of the gRPC port"
        ) from None
    except OSError as failure:
        raise NotExamined(
            f"cannot be reached: {failure.strerror or failure}; see that the server runs, that its "
            "RATELIMIT_OPERATIONS_LISTEN is this address, and that the network lets you in"
        ) from None
    return Examined(address, facts, _summed(text.decode(errors="replace")), offset, error)


def _facts(address: str, context: ssl.SSLContext | None) -> tuple[Facts, float, float]:
    """What `/status` answers, the server's clock beside ours, and the error of that."""
    _get(address, context, "/healthz", _MAX_STATUS)  # the first request of a client may take longer than others
    sent = time()
    text = _get(address, context, "/status", _MAX_STATUS)
    answered = time()
    try:
        document = json.loads(text)
        return _parsed(document), float(document["time"]) - (sent + answered) / 2, (answered - sent) / 2
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise NotExamined(
            "answers /status in no form that is known here; use `doctor` of the server's own version, or name its "
            "operations port"
        ) from None


def _parsed(document: Any) -> Facts:  # noqa: ANN401  JSON
    """Raises KeyError, TypeError and the like for a document of another form. Unknown fields are left out."""
    schema = document["schema"]
    return Facts(
        version=str(document["version"]),
        plane=str(document["plane"]),
        transport=str(document["transport"]),
        ready=bool(document["ready"]),
        state=str(document["state"]),
        serving=int(document["workers"]["serving"]),
        wanted=int(document["workers"]["wanted"]),
        stores_opened=bool(document["stores_opened"]),
        silent={str(name): str(effect) for name, effect in document["silent"].items()},
        faults={str(name): str(fault) for name, fault in document.get("faults", {}).items()},
        degraded={str(mode): str(reason) for mode, reason in document["degraded"].items()},
        reasons=[str(reason) for reason in document["reasons"]],
        clock_offsets={str(name): float(offset) for name, offset in document["clock_offsets"].items()},
        schema=Schema(
            needed=str(schema["needed"]),
            is_known="found" in schema,
            found=schema.get("found"),
            is_newer=bool(schema.get("newer")),
            obstacle=str(schema.get("obstacle", "")),
        ),
        certificates=[
            CertificateFile(
                variable=str(each["variable"]),
                ends=[datetime.fromtimestamp(end, UTC) for end in each.get("ends", ())],
                error=str(each.get("error", "")),
            )
            for each in document["certificates"]
        ],
    )


def _get(address: str, context: ssl.SSLContext | None, path: str, most: int) -> bytes:
    """The body of a response. Raises OSError, HTTPException, and NotExamined if there is no such path."""
    host = _split(address).netloc
    connection = (
        HTTPConnection(host, timeout=_SECONDS)
        if context is None
        else HTTPSConnection(host, timeout=_SECONDS, context=context)
    )
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(most)
    if response.status != _OK:
        raise NotExamined(
            f"answers {response.status} to {path}: it is an older ratelimit-service, or another program; see its "
            "version, and name its operations port"
        )
    return body


def _split(address: str) -> SplitResult:
    """The parts of an address. Raises ValueError if it is none."""
    url = urlsplit(address if "://" in address else f"http://{address}")
    if url.scheme not in _SCHEMES or not url.hostname or url.port is None or "@" in url.netloc:
        raise ValueError(address)
    if url.path.rstrip("/") or url.query or url.fragment:
        raise ValueError(address)
    return url


def _tls_context() -> ssl.SSLContext:
    """What a server's certificate is checked by. Raises CommandError if the CA cannot be read."""
    ca = os.environ.get(_CA_VARIABLE)
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise CommandError.usage(f"cannot read {_CA_VARIABLE}={ca}: {error.strerror or error}") from None


def _summed(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
    except ValueError:
        raise NotExamined("answers /metrics in no format of Prometheus; name its operations port") from None
    return found
