"""A running server as its gRPC port shows it to whoever has no token: health, its plane, and the certificate."""

import socket
import ssl
from collections.abc import Iterator, Sequence
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
_NO_PROXY: Final = ("grpc.enable_http_proxy", 0)
_SERVING: Final = HealthCheckResponse.SERVING
_DECISIONS: Final = "ratelimit.v1.RateLimitService"
_MANAGEMENT: Final = "ratelimit.v1.KeyAdminService"


def check_grpc_port(address: str, now: datetime) -> Sequence[Finding]:
    """What the server with its gRPC port at ADDRESS reports of itself; nothing if there is none.

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
            return ()
    if by_tls:
        found.append(_certificate(host, now))
    found.append(
        Finding.warning(
            "operations port",
            f"{address} is the gRPC port, which says no more without a token: name the operations port, by default "
            "9464, to have versions, clocks, ages and the schema examined",
        )
    )
    return found


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
                store, f"does not answer that server: {effect}; see that it runs, and run `doctor` beside that server"
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    name, _, port = host.rpartition(":")
    try:
        with (
            socket.create_connection((name.strip("[]"), int(port)), _SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=name.strip("[]")) as secured,
        ):
            der = secured.getpeercert(binary_form=True)
        return certificate_finding("the one that it presents", [end_of(der or b"")], now)
    except (OSError, ValueError) as error:
        return Finding.error("certificate", f"cannot be read: {error}")
