"""The server that holds the gRPC port, and the health that it reports."""

import socket
import ssl
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.cli.target import dialable, tls_credentials
from ratelimit_service.errors import StartupError
from ratelimit_service.server.port import split_address
from ratelimit_service.settings import Settings

_SECONDS: Final = 2.0
_NO_PROXY: Final = ("grpc.enable_http_proxy", 0)


def running_server(settings: Settings) -> Finding | None:
    """What a ratelimit-service on the gRPC port reports. None if another program holds it.

    A server with TLS is one that presents RATELIMIT_TLS_CERTIFICATE. If it wants a certificate of its clients, the one
    that commands present is presented.
    """
    listen, certificate = settings.listen, settings.tls_certificate
    service = f"ratelimit.v1.{'RateLimitService' if settings.decides else 'KeyAdminService'}"
    if certificate is not None and (name := _presented_name(dialable(listen), certificate)):
        if health := _health_by_tls(dialable(listen), certificate, name, service):
            return Finding.ok("port", f"a ratelimit-service runs on {listen} and reports {health}")
        if settings.tls_client_ca is None:
            return None
        return Finding.ok(
            "port",
            f"a server with this certificate runs on {listen}; to ask for its health, name a certificate of "
            "RATELIMIT_TLS_CLIENT_CA in RATELIMIT_SERVER_CERTIFICATE, and its key in RATELIMIT_SERVER_KEY",
        )
    with grpc.insecure_channel(dialable(listen), [_NO_PROXY]) as channel:
        health = _health(channel, service)
    if health and certificate is not None:
        return Finding.warning(
            "port", f"a ratelimit-service runs on {listen} without TLS and reports {health}; restart it to use TLS"
        )
    return Finding.ok("port", f"a ratelimit-service runs on {listen} and reports {health}") if health else None


def _presented_name(address: str, certificate: Path) -> str:
    """A name in the certificate that the server at ADDRESS presents, empty unless that is in the file CERTIFICATE."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # it is asked at an address of this machine
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file need not have the CA
        context.load_verify_locations(certificate)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(split_address(address), _SECONDS) as connection,
            context.wrap_socket(connection) as secured,
        ):
            found: Any = secured.getpeercert() or {}
    except (OSError, StartupError):  # no TLS, another certificate, no such file, or no address: checked elsewhere
        return ""
    names = [name for kind, name in found.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}]
    names += [name for ((field, name), *_) in found.get("subject", ()) if field == "commonName"]
    return str(names[0]).replace("*", "doctor") if names else ""


def _health_by_tls(address: str, certificate: Path, name: str, service: str) -> str:
    """As `_health`, of a server whose certificate, which has NAME, is in the file."""
    credentials = tls_credentials(certificate.read_bytes())
    options = [("grpc.ssl_target_name_override", name), _NO_PROXY]
    with grpc.secure_channel(address, credentials, options) as channel:
        return _health(channel, service)


def _health(channel: grpc.Channel, service: str) -> str:
    """The health status that the server reports of SERVICE, empty if it is not a ratelimit-service, or has no such."""
    request = HealthCheckRequest(service=service)
    try:
        response = HealthStub(channel).Check(request, timeout=_SECONDS)
    except grpc.RpcError:
        return ""
    return str(HealthCheckResponse.ServingStatus.Name(response.status))
