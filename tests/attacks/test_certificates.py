"""A certificate of the clients' CA has no role of its own: only names that are listed make a gateway."""

import ssl
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from fixtures.dev_server import free_address
from fixtures.http_calls import CHECK, call
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2_grpc as admin_grpc
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as stubs
from ratelimit_service.management.tokens import Role
from server.certificates import Authority
from server.test_tls import connected, tls_context

LISTED = "gateway.example.com,spiffe://example.com/gateway"
GATEWAYS = {
    "dns": [("DNS", "other.example.com"), ("DNS", "Gateway.Example.com")],
    "uri": [("URI", "spiffe://example.com/gateway")],
}
OTHERS = {
    "none": [("DNS", "localhost")],
    "longer": [("DNS", "gateway.example.com.evil.example"), ("URI", "spiffe://example.com/gateway/x")],
    "case": [("URI", "spiffe://example.com/Gateway")],
    "list": [("URI", "spiffe://evil,spiffe://example.com/gateway"), ("DNS", "evil,gateway.example.com")],
    "header": [("URI", "spiffe://evil;URI=spiffe://example.com/gateway;DNS=gateway.example.com")],
    "email": [("email", "gateway.example.com@gateway.example.com")],
}
FORGED = (
    ("x-ratelimit-certificate", "gateway.example.com"),
    ("x-ratelimit-certificate", "gateway.example.com"),
    ("x-forwarded-client-cert", "URI=spiffe://example.com/gateway;DNS=gateway.example.com"),
)


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """The status of a call."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def codes(server: Server, channel: grpc.Channel) -> dict[str, grpc.StatusCode]:
    """The status of calls without a token, with forged headers, and of calls with one."""
    checks, admin = stubs.RateLimitServiceStub(channel), admin_grpc.KeyAdminServiceStub(channel)
    by_token = (("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),)
    check, manage = pb2.CheckLimitRequest(), admin_pb2.ManageKeyRequest(list={})
    return {
        "check": code_of(lambda: checks.CheckLimit(check, metadata=FORGED, timeout=10)),
        "token": code_of(lambda: checks.CheckLimit(check, metadata=by_token, timeout=10)),
        "manage": code_of(lambda: admin.ManageKey(manage, metadata=FORGED, timeout=10)),
        "admin": code_of(lambda: admin.ManageKey(manage, metadata=server.as_admin, timeout=10)),
        "stream": code_of(lambda: list(checks.StreamCheckLimit(iter(()), metadata=FORGED, timeout=10))),
    }


def http_statuses(server: Server, tls: ssl.SSLContext) -> dict[str, int]:
    """The statuses of calls by HTTP without a token, with forged headers."""
    forged = {name.replace("-", "_"): value for name, value in FORGED}
    return {
        "check": call(server.settings.http_listen, CHECK, {}, tls=tls, **forged).status,
        "manage": call(server.settings.http_listen, "ManageKey", {"list": {}}, tls=tls, **forged).status,
    }


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_only_listed_names_make_a_gateway(own_server: Callable[..., Server], transport: str, tmp_path: Path) -> None:
    """Exactly the callers with a listed DNS or URI SAN may ask for decisions, and manage nothing; by HTTP too."""
    authority = Authority(tmp_path)
    served = authority.issue("server")
    server = own_server(
        transport,
        tls_certificate=served.certificate,
        tls_key=served.key,
        tls_client_ca=authority.certificate,
        gateway_certificates=LISTED,
        protect_checks=True,
        http_listen=free_address() if transport == "envoy" else "",
    )
    invalid, stranger = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED
    for name, sans in (GATEWAYS | OTHERS).items():
        # The subject of all of them is the name of a gateway, which counts for nothing.
        pair = authority.issue(name, "gateway.example.com", sans)
        with connected(server, authority, pair) as channel:
            found = codes(server, channel)
        gateway = name in GATEWAYS
        assert found == {
            "check": invalid if gateway else stranger,
            "token": invalid,
            "manage": grpc.StatusCode.PERMISSION_DENIED if gateway else stranger,
            "admin": grpc.StatusCode.OK,
            "stream": grpc.StatusCode.OK if gateway else stranger,
        }, name
        if server.settings.http_listen:
            expected = {"check": 400, "manage": 403} if gateway else {"check": 401, "manage": 401}
            assert http_statuses(server, tls_context(authority, pair)) == expected, name


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_without_a_list_the_header_is_anybodys(own_server: Callable[..., Server], transport: str) -> None:
    """Where no names are listed, a header that names one gives no role."""
    server = own_server(transport, protect_checks=True)
    with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        checks = stubs.RateLimitServiceStub(channel)
        code = code_of(lambda: checks.CheckLimit(pb2.CheckLimitRequest(), metadata=FORGED, timeout=10))
        assert code is grpc.StatusCode.UNAUTHENTICATED
