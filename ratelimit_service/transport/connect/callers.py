"""What a request presents of its caller, as the gRPC server behind this port reads it of our own proxies."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from ratelimit_service.api.authentication import MAX_AUTHORIZATION
from ratelimit_service.api.presented import CERTIFICATE_HEADER, PEER_HEADER, Presented
from ratelimit_service.transport.connect.backend import Metadata

_TRACE: Final = frozenset({b"traceparent", b"tracestate"})


def metadata_of(scope: Mapping[str, Any], gateways: Collection[str]) -> Metadata:
    """The metadata of the call: `authorization`, the peer, the name of a gateway that its certificate has, its trace.

    GATEWAYS are the names of certificates that make their callers gateways. No other header is passed on, so that a
    caller cannot claim to be another peer.
    """
    client = scope.get("client")
    found = [(PEER_HEADER, Presented(peer=(client[0], client[1])).peer_text if client else "")]
    authorization = [value for name, value in scope["headers"] if name == b"authorization"]
    if authorization:
        found.append(("authorization", _printable(b",".join(authorization))))
    found += [
        (name.decode(), _printable(value))
        for name, value in scope["headers"]
        if name in _TRACE and len(value) <= MAX_AUTHORIZATION
    ]
    names = _names(scope.get("state", {}).get("certificate") or {})
    certificate = min(names.intersection(gateways), default="")
    if certificate:
        found.append((CERTIFICATE_HEADER, certificate))
    return found


def _printable(value: bytes) -> str:
    """VALUE as gRPC accepts it. What is longer than any token, or has other characters, stays no token."""
    text = value[: MAX_AUTHORIZATION + 1].decode("latin-1")
    return "".join(character if " " <= character <= "~" else "?" for character in text)


def _names(certificate: Mapping[str, Iterable[tuple[str, str]]]) -> set[str]:
    """The DNS names, in lower case, and URIs of a CERTIFICATE as Python's ssl has it: of verified ones alone."""
    names = certificate.get("subjectAltName", ())
    return {name.lower() if kind == "DNS" else name for kind, name in names if kind in {"DNS", "URI"}}
