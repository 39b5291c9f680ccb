"""Calls in JSON over HTTP to real servers, behind either transport: the same decisions, roles and errors as by gRPC."""

import base64
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from google.rpc import error_details_pb2

from fixtures.dev_server import free_address
from fixtures.http_calls import ADMIN, CHECK, JSON_TYPE, call, exchange, request
from fixtures.pages import ROOT, SCRIPTS, blocks
from fixtures.served import START_SECONDS, Server
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as pb2
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2_grpc as stubs
from ratelimit_service.management.tokens import Role, Token

PAGE = "docs/http.md"


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def server(request: pytest.FixtureRequest, serve: Callable[..., Server]) -> Iterator[Server]:
    """A server that is open to everybody on this machine."""
    server = serve(request.param, http_listen=free_address())
    yield server
    server.close()


@pytest.fixture
def http(server: Server) -> str:
    """The address for HTTP."""
    return server.settings.http_listen


def test_decisions_are_those_of_grpc(server: Server, http: str) -> None:
    """Calls by both are charged to the same buckets. A denial is 200, with `allowed` false and the time to wait."""
    _, api_key = server.key("once")
    first = call(http, CHECK, {"api_key": api_key, "cost": 12})
    assert (first.status, first.body["allowed"], first.body["reason"]) == (200, True, "WITHIN_LIMIT")
    assert (first.body["limit"], first.body["remaining"]) == ("burst", "8")
    by_grpc = stubs.RateLimitServiceStub(server.channel).CheckLimit(pb2.CheckLimitRequest(api_key=api_key, cost=7))
    assert by_grpc.remaining == 1
    denied = call(http, CHECK, {"api_key": api_key, "cost": "2"})
    assert (denied.status, denied.body["allowed"], denied.body["reason"]) == (200, False, "OVER_LIMIT")
    assert re.fullmatch(r"\d+(\.\d+)?s", denied.body["retry_after"])
    assert "retry-after" not in denied.headers
    assert denied.headers["cache-control"] == "no-store"
    batch = call(http, CHECK.replace("Check", "BatchCheck"), {"checks": [{"api_key": api_key}, {"cost": 1}]})
    results = batch.body["results"]
    assert (results[0]["decision"]["allowed"], results[1]["error"]["reason"]) == (True, "INVALID_FIELD")


def test_administration(server: Server, http: str) -> None:
    """Keys are managed, and usage is read, by those who may; what is made is there at once."""
    admin = server.tokens[Role.ADMIN]
    made = call(http, "ManageKey", {"create": {"plan": "free", "subject": "by-http"}}, admin)
    key = made.body["create"]
    assert made.status == 200
    assert call(http, CHECK, {"api_key": key["secret"]}).body["allowed"] is True
    listed = call(http, "ManageKey", {"list": {"subject": "by-http"}}, server.tokens[Role.VIEWER])
    assert [each["key_id"] for each in listed.body["list"]["keys"]] == [key["key"]["key_id"]]
    usage = call(http, "QueryUsage", {"step": "3600s", "group_by": ["PLAN"]}, server.tokens[Role.VIEWER])
    assert (usage.status, isinstance(usage.body["rows"], list)) == (200, True)


def test_errors_have_the_details_of_grpc(server: Server, http: str) -> None:
    """Connect's code and HTTP status, our reason and metadata for programs, and the fields that are wrong."""
    viewer = server.tokens[Role.VIEWER]
    missing = call(http, "ManagePlan", {"get": {"name": "none"}}, viewer)
    assert (missing.status, missing.body["code"]) == (404, "not_found")
    assert missing.info == {"reason": "PLAN_NOT_FOUND", "domain": "ratelimit.v1", "metadata": {"plan": "none"}}
    value = missing.body["details"][0]["value"]
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert info.reason == "PLAN_NOT_FOUND"
    invalid = call(http, CHECK, {"api_key": "rlk_live_x", "cost": 10**10})
    assert (invalid.status, invalid.body["code"], invalid.info["reason"]) == (400, "invalid_argument", "INVALID_FIELD")
    assert [each["field"] for each in invalid.detail("BadRequest")["fieldViolations"]] == ["cost"]
    stranger = call(http, "ManageKey", {"list": {}})
    assert (stranger.status, stranger.body["code"], stranger.info["reason"]) == (
        401,
        "unauthenticated",
        "TOKEN_MISSING",
    )
    assert stranger.headers["www-authenticate"] == "Bearer"
    wrong_role = call(http, "ManageKey", {"revoke": {"key_id": "0123456789abcdef"}}, viewer)
    assert (wrong_role.status, wrong_role.info["reason"]) == (403, "ROLE_INSUFFICIENT")
    for odd in ("Basic abc", "Bearer \xe9\xff", "Bearer " + "x" * 9_000, "Bearer a, Bearer b"):
        answer = call(http, "ManageKey", {"list": {}}, authorization=odd)
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated"), odd


def test_a_caller_cannot_choose_its_peer(server: Server, http: str) -> None:
    """The log names the other end of the HTTP connection, whatever headers say."""
    forged = dict.fromkeys(("x_ratelimit_peer", "x_forwarded_for", "forwarded", "x_real_ip"), "203.0.113.9:1")
    before = server.output.count("TOKEN_MISSING")
    assert call(http, "ListAlerts", {}, **forged).status == 401
    server.wait_for_output("TOKEN_MISSING", before + 1)
    line = [line for line in server.output.splitlines() if "TOKEN_MISSING" in line][-1]
    assert re.search(r"method=/ratelimit.v1.KeyAdminService/ListAlerts .*peer=127\.0\.0\.1:[1-9]\d*\b", line), line
    assert "203.0.113" not in server.output


def test_guesses_are_slowed_and_deadlines_passed_on(server: Server, http: str) -> None:
    """The ninth wrong token is answered late, but before the caller's own deadline; a good one at once."""

    def seconds(token: object, **headers: str) -> tuple[float, int]:
        began = time.monotonic()
        status = call(http, "ManageKey", {"list": {}}, str(token), **headers).status
        return time.monotonic() - began, status

    for _ in range(8):
        seconds(Token.generate(), connect_timeout_ms="300")
    waited, status = seconds(Token.generate(), connect_timeout_ms="400")
    assert 0.2 < waited < 2
    assert status in {401, 504}
    waited, status = seconds(server.tokens[Role.ADMIN])
    assert (status, waited < 1) == (200, True)
    late = call(http, CHECK, {}, connect_timeout_ms="0")
    assert (late.status, late.body["code"], late.info["reason"]) == (504, "deadline_exceeded", "DEADLINE_TOO_SHORT")
    for odd in ("-1", "1.5", "1" * 11, ""):
        assert call(http, CHECK, {}, connect_timeout_ms=odd).status == 400, odd


class Odd(NamedTuple):
    """A request that is no call, and what its response says."""

    status: int
    message: str
    body: bytes = b"{}"
    headers: dict[str, str] = JSON_TYPE
    verb: str = "POST"
    path: str = CHECK


ORIGIN = {"origin": "https://evil.example"}
ODD = [
    Odd(405, "GET is not served; send POST", b"", {}, "GET"),
    Odd(405, "PUT is not served", verb="PUT"),
    Odd(405, "OPTIONS is not served", b"", ORIGIN, "OPTIONS"),
    Odd(403, "pages of other sites", headers=JSON_TYPE | ORIGIN),
    Odd(404, "/ is not served here; methods are paths such as /ratelimit.v1.", b"", {}, "GET", "/"),
    Odd(404, f"did you mean {CHECK}?", path=CHECK.replace("Limit", "Limt")),
    Odd(404, "served by gRPC alone", path=CHECK.replace("Check", "StreamCheck")),
    Odd(415, "send JSON", b"a=b", {"content-type": "application/x-www-form-urlencoded"}),
    Odd(415, "content-type: application/json", headers={"content-type": "text/plain"}),
    Odd(415, "the content-type is missing", headers={}),
    Odd(415, "content-encoding 'gzip'", headers=JSON_TYPE | {"content-encoding": "gzip"}),
    Odd(400, "write 1", headers=JSON_TYPE | {"connect-protocol-version": "2"}),
    Odd(400, "did you mean `api_key`?", b'{"cost":1,"api_kye":"x"}'),
    Odd(413, "has 65537 bytes; at most 65536", b'"' + b"x" * 65_535 + b'"'),
    Odd(413, "has 900000 bytes; at most 65536", b"x" * 900_000),
]
CODES = {400: "invalid_argument", 413: "resource_exhausted"}


def test_what_is_no_call_is_explained(http: str) -> None:
    """Each mistake has its HTTP status, and a message that says how it is done right. No page of a site may call."""
    for odd in ODD:
        reply = request(http, odd.verb, odd.path, body=odd.body, headers=odd.headers)
        assert (reply.status, reply.body["code"]) == (odd.status, CODES.get(odd.status, "unimplemented")), odd
        assert odd.message in reply.body["message"], odd
        assert reply.info["reason"] in {"NOT_SERVED", "INVALID_FIELD", "MESSAGE_TOO_LARGE"}
        assert not any(name.startswith("access-control-") for name in reply.headers)
        assert (reply.headers.get("allow") == "POST") is (odd.status == 405)


def test_requests_that_break_the_rules(server: Server, http: str) -> None:
    """They are refused, their connections closed, and others are served."""
    head = f"POST {CHECK} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    two_lengths = f"{head}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    for data in (two_lengths, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", f"{head}x: {'y' * 20_000}\r\n\r\n", "\x16\x03\x01"):
        answer = exchange(http, data.encode("latin-1"))
        assert re.match(rb"HTTP/1\.1 4(00|04|31) ", answer), (data[:40], answer)
    chunked = f"{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    assert b"api_key" in exchange(http, chunked.encode())
    assert "Traceback" not in server.output


def test_requests_that_are_none_do_not_fill_the_log(server: Server, http: str) -> None:
    """Few lines a second, whatever is sent, and none for a WebSocket that is asked for."""
    before, began = server.output.count("\n"), time.monotonic()
    upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    for _ in range(60):
        assert exchange(http, upgrade).startswith(b"HTTP/1.1 404 ")
    assert server.output.count("\n") == before
    for _ in range(60):
        assert exchange(http, b"no request\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert server.output.count("\n") - before <= 10 * (time.monotonic() - began + 1) < 60


def test_a_client_of_connect_calls_it(server: Server, http: str) -> None:
    """`buf curl`, which knows nothing of us but the protocol and our protos, gets decisions and errors with details."""

    def buf_curl(method: str, message: object) -> subprocess.CompletedProcess[str]:
        command = [SCRIPTS / "buf", "curl", "--schema", "protos", "--protocol", "connect", "-d", json.dumps(message)]
        url = f"http://{http}{method}"
        return subprocess.run([*command, url], cwd=ROOT, capture_output=True, check=False, text=True, timeout=30)

    decided = json.loads(buf_curl(CHECK, {"api_key": server.key("once")[1], "cost": 3}).stdout)
    assert (decided["allowed"], decided["remaining"]) == (True, "17")
    failed = buf_curl(f"{ADMIN}ManagePlan", {"list": {}})
    assert failed.returncode != 0
    assert '"code": "unauthenticated"' in failed.stderr
    assert '"reason": "TOKEN_MISSING"' in failed.stderr


def test_what_is_open_is_a_line_at_the_start(server: Server, http: str) -> None:
    """It names the address and who may do what there, as of the gRPC port."""
    assert f"open: {http} HTTP, plain text: decisions for anyone; admin methods for tokens\n" in server.output


def test_the_page_works(server: Server, http: str, tmp_path: Path) -> None:
    """Its commands, pasted into a shell in order beside a server as `make run` starts it, do what it says."""
    (tmp_path / ".ratelimit").mkdir()
    state = {"api_key": server.key("free")[1], "admin_token": server.tokens[Role.ADMIN]}
    (tmp_path / ".ratelimit" / "dev.json").write_text(json.dumps(state))
    script = "".join(blocks(PAGE, "sh")).replace("localhost:8080", http)
    done = subprocess.run(
        ["sh", "-eu"], input=script, cwd=tmp_path, capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert replies[0]["allowed"] is True
    assert replies[1]["create"]["key"]["subject"] == "acme"
    assert "rows" in replies[2]
    (example,) = blocks(PAGE, "json")
    assert replies[3] == json.loads(example)


def test_processes_that_end_are_replaced(server: Server, http: str) -> None:
    """Without the process behind it calls are 503 with Retry-After, and decided again in a moment; the workers go on.

    A server with an open connection ends by SIGTERM with 0. The control plane behind Envoy ends in tests/faults.
    """
    modules = {"grpcio": ("control_plane", "http_process"), "envoy": ("http_process",)}[server.settings.transport]
    _, api_key = server.key("wide")
    workers = {each.pid for each in server.workers() if not _runs(each, "http_process", "control_plane")}
    for module in modules:
        (ended,) = (each for each in psutil.Process(server.process.pid).children() if _runs(each, module))
        ended.kill()
        deadline, statuses = time.monotonic() + START_SECONDS, set()
        while 200 not in statuses or ended.is_running():
            assert time.monotonic() < deadline, server.output
            try:
                answer = call(http, CHECK, {"api_key": api_key})
            except OSError:  # no process accepts at this moment
                continue
            statuses.add(answer.status)
            assert answer.status == 200 or int(answer.headers["retry-after"]) >= 1, answer
            time.sleep(0.02)
        assert statuses <= {200, 503}
    assert {each.pid for each in server.workers()} >= workers
    host, _, port = http.rpartition(":")
    with socket.create_connection((host, int(port))):
        assert server.stop() == 0


def _runs(process: psutil.Process, *modules: str) -> bool:
    return any(f"ratelimit_service.server.{module}" in process.cmdline() for module in modules)
