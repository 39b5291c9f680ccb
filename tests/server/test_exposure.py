"""What a server opens to whom, and what it refuses to open beyond loopback."""

import socket
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from fixtures.dev_server import free_address
from fixtures.served import START_SECONDS, Server, launch, make_settings
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as grpc_stubs
from ratelimit_service.errors import StartupError
from ratelimit_service.management.tokens import Role
from ratelimit_service.server.exposure import effective, is_local, open_ports
from ratelimit_service.settings import Settings

StartOwn = Callable[..., Server]
PLAINTEXT = "tokens and keys are sent to it in plain text; set RATELIMIT_TLS_CERTIFICATE and RATELIMIT_TLS_KEY, or "
ANONYMOUS = "everyone who can connect may request decisions and use up limits; remove RATELIMIT_PROTECT_CHECKS=false"
TLS = {"tls_certificate": Path("/nowhere.pem"), "tls_key": Path("/nowhere.key")}


def settings(listen: str = "127.0.0.1:50051", **others: object) -> Settings:
    """Settings of a server on LISTEN, without an operations port."""
    return Settings(**{"listen": listen, "operations_listen": "", **others})


def lines(**changes: object) -> list[str]:
    """The line of each port that is opened."""
    return [str(port) for port in open_ports(settings(**changes))]


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:0", True),
        ("127.9.9.9:0", True),
        ("localhost:0", True),
        ("[::1]:0", True),
        ("[::ffff:127.0.0.1]:0", True),
        ("unix:/run/ratelimit.sock", True),
        ("0.0.0.0:0", False),
        ("[::]:0", False),
        ("[::ffff:0.0.0.0]:0", False),
        ("192.0.2.1:0", False),
        ("[2001:db8::1]:0", False),
        ("0:0", False),  # another way to write 0.0.0.0
        ("127.1:0", True),
    ],
)
def test_which_addresses_are_local(listen: str, local: bool) -> None:
    """Loopback and unix sockets are local, wildcards and everything else are not, however they are written."""
    assert is_local(listen, "RATELIMIT_LISTEN") is local


def test_a_host_with_one_address_beyond_loopback_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is local only if all of its addresses are: which one is listened on is the resolver's choice."""
    found = {
        "both.test": ["127.0.0.1", "192.0.2.1"],
        "loopback.test": ["127.0.0.1", "127.0.0.2"],
    }

    def resolve(host: str, port: int, **_kind: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_local("both.test:0", "RATELIMIT_LISTEN")
    assert is_local("loopback.test:0", "RATELIMIT_LISTEN")


@pytest.mark.parametrize(
    ("listen", "protected"),
    [("127.0.0.1:0", False), ("[::1]:0", False), ("localhost:0", False), ("0.0.0.0:0", True), ("[::]:0", True)],
)
def test_the_address_decides_whether_checks_are_protected(listen: str, protected: bool) -> None:
    """Beyond loopback checks are protected unless a setting says otherwise; on loopback only if one says so."""
    assert effective(settings(listen, **TLS)).protect_checks is protected
    assert effective(settings(listen, protect_checks=True, **TLS)).protect_checks is True
    allowed = settings(listen, protect_checks=False, allow_anonymous=True, **TLS)
    assert effective(allowed).protect_checks is False


def test_the_port_for_http_opens_nothing_that_the_others_do_not() -> None:
    """It needs TLS and protected checks beyond loopback too, though the gRPC port is on it, and a line of its own."""
    beyond = {"http_listen": "0.0.0.0:8080"}
    assert effective(settings(**beyond, **TLS)).protect_checks is True
    with pytest.raises(StartupError, match=r"^RATELIMIT_HTTP_LISTEN is 0\.0\.0\.0:8080, which is beyond") as refused:
        effective(settings(protect_checks=False, **beyond))
    assert [line.count("RATELIMIT_ALLOW_") for line in str(refused.value).splitlines()] == [1, 1]
    line = "0.0.0.0:8080 HTTP, TLS: decisions for gateways"
    assert lines(**beyond, **TLS)[1:] == [f"{line}; admin methods for tokens"]
    assert lines(**beyond, **TLS, admin_listen="127.0.0.1:50052")[2:] == [line]
    assert lines(**beyond, **TLS, plane="control")[1:] == ["0.0.0.0:8080 HTTP, TLS: admin methods for tokens"]
    with pytest.raises(StartupError, match=r"RATELIMIT_HTTP_LISTEN: '8080' is not an address"):
        effective(settings(http_listen="8080"))


def test_a_process_without_the_setting_protects() -> None:
    """Where the address has not decided it, as in a process that no server started, callers need a token."""
    assert settings().checks_protected


def test_plain_text_beyond_loopback_is_refused() -> None:
    """The message names the address, what is open there, and both settings; either of them allows it."""
    with pytest.raises(StartupError) as refused:
        effective(settings("0.0.0.0:50051"))
    assert str(refused.value) == (
        f"RATELIMIT_LISTEN is 0.0.0.0:50051, which is beyond loopback: {PLAINTEXT}RATELIMIT_ALLOW_PLAINTEXT=true if "
        "the network encrypts, as a service mesh does"
    )
    effective(settings("0.0.0.0:50051", allow_plaintext=True))
    effective(settings("0.0.0.0:50051", **TLS))


def test_anonymous_callers_beyond_loopback_are_refused() -> None:
    """TLS does not allow them, a client certificate neither; a setting that says so does."""
    client_ca = {"tls_client_ca": Path("/nowhere.ca")}
    for others in ({}, client_ca):
        anonymous = settings("[::]:50051", protect_checks=False, **TLS, **others)
        with pytest.raises(StartupError, match="beyond loopback") as refused:
            effective(anonymous)
        assert str(refused.value).startswith(
            f"RATELIMIT_LISTEN is [::]:50051, which is beyond loopback: {ANONYMOUS}, so that callers need a token"
        )
        assert "set RATELIMIT_ALLOW_ANONYMOUS=true if only gateways can connect" in str(refused.value)
        effective(anonymous.model_copy(update={"allow_anonymous": True}))


def test_one_permission_is_not_the_other() -> None:
    """Each danger is a line of its own, and only the setting of its own name allows it."""
    both = {"protect_checks": False}
    with pytest.raises(StartupError) as refused:
        effective(settings("0.0.0.0:1", **both))
    assert [line.count("RATELIMIT_ALLOW_") for line in str(refused.value).splitlines()] == [1, 1]
    with pytest.raises(StartupError, match="ALLOW_ANONYMOUS"):
        effective(settings("0.0.0.0:1", allow_plaintext=True, **both))
    with pytest.raises(StartupError, match="ALLOW_PLAINTEXT"):
        effective(settings("0.0.0.0:1", allow_anonymous=True, **both))
    assert effective(settings("0.0.0.0:1", allow_anonymous=True, allow_plaintext=True)).checks_protected


def test_who_may_do_what_on_each_port() -> None:
    """A line names the address, how it is reached, and who may do what there."""
    assert lines() == ["127.0.0.1:50051 plain text: decisions for anyone; admin methods for tokens"]
    assert lines(listen="0.0.0.0:50051", **TLS) == [
        "0.0.0.0:50051 TLS: decisions for gateways; admin methods for tokens"
    ]
    (line,) = lines(tls_client_ca=Path("/nowhere.ca"), **TLS)
    assert line.startswith("127.0.0.1:50051 TLS with client certificates: decisions for anyone with a certificate; ")
    assert lines(operations_listen="127.0.0.1:9464")[1:] == [
        "127.0.0.1:9464 plain text: metrics and probes for anyone; console for tokens"
    ]
    assert lines(operations_listen="0.0.0.0:9464")[1:] == ["0.0.0.0:9464 plain text: metrics and probes for anyone"]
    apart = {"operations_listen": "0.0.0.0:9464", "console_listen": "0.0.0.0:9465"}
    assert lines(**apart, **TLS)[1:] == [
        "0.0.0.0:9464 plain text or TLS: metrics and probes for anyone",
        "0.0.0.0:9465 TLS: console for tokens",
    ]


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_a_server_refuses_before_it_starts_anything(
    transport: str, migrated_database_url: Callable[[], str], valkey_url: str, tmp_path: Path
) -> None:
    """A real server without TLS on every interface exits with the message, and never opens the port."""
    valid = make_settings(migrated_database_url(), valkey_url, transport)
    port = valid.listen.rpartition(":")[2]
    changes = {"listen": f"0.0.0.0:{port}", "protect_checks": False}
    server = launch(valid.model_copy(update=changes), {}, tmp_path / "log")
    assert server.process.wait(START_SECONDS) == 4
    assert f"RATELIMIT_LISTEN is 0.0.0.0:{port}, which is beyond loopback: tokens and keys" in server.output
    assert f"RATELIMIT_LISTEN is 0.0.0.0:{port}, which is beyond loopback: everyone" in server.output
    assert "Traceback" not in server.output
    assert len(server.output.splitlines()) == 2


@pytest.mark.parametrize(
    ("transport", "listen"),
    [("grpcio", "0.0.0.0"), ("envoy", "0.0.0.0"), ("grpcio", "localhost"), ("envoy", "[::1]")],
)
def test_strangers_are_refused_beyond_loopback(own_server: StartOwn, transport: str, listen: str) -> None:
    """On every interface all methods that decide refuse callers without a token; on loopback none does."""
    port = free_address().rpartition(":")[2]
    server = own_server(transport, listen=f"{listen}:{port}", allow_plaintext=True)
    beyond = listen == "0.0.0.0"
    whom = "gateways" if beyond else "anyone"
    server.wait_for_output(f"open: {listen}:{port} plain text: decisions for {whom}; admin methods for tokens")
    _, secret = server.key()
    check = pb2.CheckLimitRequest(api_key=secret)
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    calls = [
        lambda metadata: stub.CheckLimit(check, metadata=metadata),
        lambda metadata: stub.BatchCheckLimit(pb2.BatchCheckLimitRequest(checks=[check]), metadata=metadata),
        lambda metadata: server.channel.unary_unary("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")(
            b"", metadata=metadata
        ),
        lambda metadata: server.channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")(
            b"", metadata=metadata
        ),
    ]
    codes = [_code(lambda call=call: call(())) for call in calls]
    assert (codes.count(grpc.StatusCode.UNAUTHENTICATED) == len(calls)) is beyond, codes
    assert (grpc.StatusCode.UNAUTHENTICATED in codes) is beyond, codes
    assert calls[0]((("authorization", f"Bearer {server.tokens[Role.GATEWAY]}"),)).allowed


def _code(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("transport", ["grpcio", "envoy"])
def test_anonymous_callers_that_are_meant_are_served(own_server: StartOwn, transport: str) -> None:
    """With both permissions and protection off, a server on every interface decides for anyone, and says so."""
    port = free_address().rpartition(":")[2]
    allowed = {"allow_plaintext": True, "allow_anonymous": True, "protect_checks": False}
    server = own_server(transport, listen=f"0.0.0.0:{port}", **allowed)
    assert f"open: 0.0.0.0:{port} plain text: decisions for anyone; admin methods for tokens" in server.output
    stub = grpc_stubs.RateLimitServiceStub(server.channel)
    assert stub.CheckLimit(pb2.CheckLimitRequest(api_key=server.key()[1])).allowed
