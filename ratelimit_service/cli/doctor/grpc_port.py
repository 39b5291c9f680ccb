"""A running server as its gRPC port shows it to whoever has no token: health, its plane, and the certificate."""

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ratelimit_service.cli.doctor.certificates import certificate_finding
from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.cli.target import tls_credentials
from ratelimit_service.operations.readiness import CONTROL_EFFECTS, EFFECTS
from ratelimit_service.server.certificate_ends import end_of

_SECONDS: Final = 2.0
_HTTP2: Final = "h2"
_NO_PROXY: Final = ("grpc.enable_http_proxy", 0)
_SERVING: Final = HealthCheckResponse.SERVING
_SUBJECT: Final = "operations port"
_NAME_IT: Final = (
    "name its operations port, the address in RATELIMIT_OPERATIONS_LISTEN of that server, by default port 9464"
)
_DECISIONS: Final = "ratelimit.v1.RateLimitService"
_MANAGEMENT: Final = "ratelimit.v1.KeyAdminService"


def check_grpc_port(address: str, now: datetime) -> Sequence[Finding]:
    """What the server with its gRPC port at ADDRESS reports of itself, and which port to name; nothing if it has none.

    ADDRESS has the scheme `https` if it is to be reached by TLS, with the files that commands use for that.
    """
    host, by_tls = urlsplit(address if "://" in address else f"http://{address}").netloc, address.startswith("https://")
    channel = (
        grpc.secure_channel(host, tls_credentials(), [_NO_PROXY])
        if by_tls
        else grpc.insecure_channel(host, [_NO_PROXY])
    )
    with channel:
        health = HealthStub(channel)
        try:
            serving = health.Check(HealthCheckRequest(), timeout=_SECONDS).status == _SERVING
            found = list(_health(health, serving=serving))
        except grpc.RpcError:
            if not _takes_http2_alone(host):
                return ()
            return [Finding.error(_SUBJECT, f"{address} is a gRPC port with TLS, and it says nothing here: {_NAME_IT}")]
    if by_tls:
        found.append(_certificate(host, now))
    return [
        Finding.warning(
            _SUBJECT,
            f"{address} is the gRPC port, which says no more than this without a token: {_NAME_IT}, to have versions, "
            "clocks, ages and the schema examined, and to learn what is wrong with a store",
        ),
        *found,
    ]


def _health(health: HealthStub, *, serving: bool) -> Iterator[Finding]:
    decides, manages = (_status(health, service) is not None for service in (_DECISIONS, _MANAGEMENT))
    plane = "all" if decides and manages else "decision" if decides else "control"
    if serving:
        yield Finding.ok("server", f"reports SERVING, plane {plane}")
    else:
        yield Finding.error("server", f"reports NOT_SERVING, plane {plane}: it is about to end, or ends; see its log")
    for store in ("postgres", "redis"):
        if _status(health, store) == _SERVING:
            yield Finding.ok(store, "answers that server")
        else:
            effect = (EFFECTS if decides else CONTROL_EFFECTS)[store]
            yield Finding.error(
                store, f"does not answer that server, or not in time: {effect}; its operations port says which"
            )


def _status(health: HealthStub, component: str) -> int | None:
    """The status of a component, None if the server has no such component. Raises grpc.RpcError if it fails."""
    try:
        return int(health.Check(HealthCheckRequest(service=component), timeout=_SECONDS).status)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise


def _certificate(host: str, now: datetime) -> Finding:
    """The certificate that the server presents, whether or not it is accepted."""
    try:
        with _secured(host) as connection:
            der = connection.getpeercert(binary_form=True)
        return certificate_finding("the one that it presents", [end_of(der or b"")], now)
    except (OSError, ValueError) as error:
        return Finding.error("certificate", f"cannot be read: {error}")


def _takes_http2_alone(host: str) -> bool:
    """Whether that is so of a port with TLS, whomever it lets in: of a gRPC port, not of a proxy before another one."""
    return _negotiated(host, _HTTP2) and not _negotiated(host, "http/1.1")


def _negotiated(host: str, protocol: str) -> bool:
    try:
        with _secured(host, protocol) as connection:
            return connection.selected_alpn_protocol() == protocol
    except (OSError, ValueError):
        return False


@contextmanager
def _secured(host: str, protocol: str = _HTTP2) -> Iterator[ssl.SSLSocket]:
    """A connection by TLS that offers PROTOCOL and accepts any certificate. Raises OSError and ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    name, _, port = host.rpartition(":")
    with (
        socket.create_connection((name.strip("[]"), int(port)), _SECONDS) as connection,
        context.wrap_socket(connection, server_hostname=name.strip("[]")) as secured,
    ):
        yield secured
