"""What the library knows of a call: its deadline, and what it presents of its caller."""

from collections.abc import Callable, Collection
from time import monotonic
from typing import TypeAlias

import grpc

from ratelimit_service.api.messages import deadline_passed
from ratelimit_service.api.presented import CERTIFICATE_HEADER, PEER_HEADER, Presented

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

Present: TypeAlias = Callable[[Context], Presented]
"""Finds what a call presents of its caller."""


def direct(gateways: Collection[str]) -> Present:
    """What calls present that come straight from their callers.

    GATEWAYS are the names of certificates that make their callers gateways, DNS names in lower case. With any, the port
    has to demand certificates: the library verifies them only then.
    """

    def present(context: Context) -> Presented:
        certificate = _certificate(context, gateways) if gateways else ""
        return Presented(joined(context, "authorization"), context.peer(), certificate)

    return present


def proxied(gateways: Collection[str]) -> Present:
    """What calls present that come through our Envoy: peer and certificate are in headers that Envoy overwrites.

    Only for a socket on which nobody but our Envoy can connect. Without GATEWAYS it does not write the latter.
    """

    def present(context: Context) -> Presented:
        certificate = _text(joined(context, CERTIFICATE_HEADER)) if gateways else ""
        return Presented(joined(context, "authorization"), _text(joined(context, PEER_HEADER)), certificate)

    return present


def deadline_of(context: Context) -> float | None:
    """The monotonic time in seconds until which the caller waits, None if for any time.

    Raises DeadlineExceeded if it has passed.
    """
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return None
    if remaining <= 0:
        raise deadline_passed()
    return monotonic() + remaining


def size_of_headers(context: Context) -> int:
    """The bytes of the headers of a call."""
    return sum(len(key) + len(value) for key, value in context.invocation_metadata() or ())


def joined(context: Context, name: str) -> str | bytes | None:
    """The value of the header NAME, None if there is none; of several, all joined by commas, as by Envoy."""
    values = [value for key, value in context.invocation_metadata() or () if key == name]
    if len(values) <= 1:
        return values[0] if values else None
    return b",".join(value if isinstance(value, bytes) else value.encode() for value in values)


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else ""


def _certificate(context: Context, gateways: Collection[str]) -> str:
    """The first of the names GATEWAYS that the caller's certificate has as a DNS or URI SAN, in whole; else empty."""
    properties = context.auth_context()
    names = {name.decode("ascii", "replace").lower() for name in properties.get("peer_dns", ())}
    names.update(name.decode("ascii", "replace") for name in properties.get("peer_uri", ()))
    return min(names.intersection(gateways), default="")
