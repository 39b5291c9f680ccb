"""TLS on either transport: which callers are served, and how certificates are renewed."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fixtures.dev_server import free_address
from fixtures.http_calls import CHECK, call
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from ratelimit_service.management.tokens import Role
from server.certificates import Authority, Pair

StartOwn = Callable[..., Server]
both_transports = pytest.mark.parametrize("transport", ["grpcio", "envoy"])


@contextmanager
def connected(server: Server, authority: Authority, pair: Pair | None = None) -> Iterator[grpc.Channel]:
    """A channel that trusts the CA, and presents a certificate if there is one."""
    key, certificate = pair.read() if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(server.address, credentials, options) as channel:
        yield channel


def decision_code(channel: grpc.Channel) -> grpc.StatusCode:
    """The status of a check without a key: INVALID_ARGUMENT if the call gets through."""
    try:
        grpc_stubs.RateLimitServiceStub(channel).CheckLimit(pb2.CheckLimitRequest(), timeout=5)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def presented(server: Server) -> str:
    """The certificate that the server presents to a new connection."""
    host, port = server.address.split(":")
    return ssl.get_server_certificate((host, int(port)))


@both_transports
def test_only_callers_with_a_certificate_are_served(own_server: StartOwn, transport: str, tmp_path: Path) -> None:
    """With a client CA, a caller needs a certificate of it; hot and proxied methods alike are then served.

    So it is by HTTP, which both transports have the same process for; plain text gets a response that says what to do.
    """
    authority, other = Authority(tmp_path), Authority(_folder(tmp_path, "other"))
    served, caller = authority.issue("server"), authority.issue("caller", "gateway")
    server = own_server(
        transport,
        tls_certificate=served.certificate,
        tls_key=served.key,
        tls_client_ca=authority.certificate,
        http_listen=free_address() if transport == "envoy" else "",
    )
    with connected(server, authority, caller) as channel:
        assert decision_code(channel) is grpc.StatusCode.INVALID_ARGUMENT
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    for stranger in (None, other.issue("caller")):
        with connected(server, authority, stranger) as channel:
            assert decision_code(channel) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel:
        assert decision_code(channel) is grpc.StatusCode.UNAVAILABLE
    if http := server.settings.http_listen:
        assert call(http, CHECK, {}, tls=tls_context(authority, caller)).info["reason"] == "INVALID_FIELD"
        for stranger in (None, other.issue("caller")):
            with pytest.raises(OSError):  # noqa: PT011  the handshake fails, in one of several ways
                call(http, CHECK, {}, tls=tls_context(authority, stranger))
        plain = call(http, CHECK, {}, server.tokens[Role.ADMIN])
        assert (plain.status, plain.body["message"]) == (400, "plain text is not served here; call it by https://")


@both_transports
def test_a_renewed_certificate_is_presented_without_a_restart(
    own_server: StartOwn, transport: str, tmp_path: Path
) -> None:
    """Files that are overwritten are noticed: new connections get the new certificate, the old one stays open."""
    authority = Authority(tmp_path)
    served, renewed = authority.issue("server"), authority.issue("renewed")
    server = own_server(transport, tls_certificate=served.certificate, tls_key=served.key)
    with connected(server, authority) as channel:
        assert decision_code(channel) is grpc.StatusCode.INVALID_ARGUMENT
        assert presented(server) == served.certificate.read_text()
        renewed.write_over(served)
        deadline = time.monotonic() + 10
        while presented(server) != renewed.certificate.read_text():
            assert time.monotonic() < deadline, server.output
            time.sleep(0.1)
        assert decision_code(channel) is grpc.StatusCode.INVALID_ARGUMENT


@both_transports
def test_half_a_renewal_is_ignored(own_server: StartOwn, transport: str, tmp_path: Path) -> None:
    """A certificate that does not belong to the key is not presented: new connections are served as before."""
    authority = Authority(tmp_path)
    served, renewed = authority.issue("server"), authority.issue("renewed")
    before = served.certificate.read_text()
    server = own_server(transport, tls_certificate=served.certificate, tls_key=served.key)
    served.certificate.write_bytes(renewed.certificate.read_bytes())
    presented(server)  # the transport grpcio checks the files on each connection
    server.wait_for_output("certificate not renewed")
    assert presented(server) == before


def tls_context(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """For callers that trust the CA, and present a certificate if there is one."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder
