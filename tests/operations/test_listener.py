"""What peers of the operations port can and cannot hold on to."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from starlette.types import Receive, Scope, Send

from ratelimit_service.console.security.streams import MAX_STREAMS
from ratelimit_service.operations import connection, listener
from ratelimit_service.operations.app import console_app, operations_app
from ratelimit_service.operations.listener import Listener
from ratelimit_service.operations.loopback import is_loopback
from ratelimit_service.operations.readiness import Readiness
from ratelimit_service.operations.tls import TlsFiles
from ratelimit_service.server.port import open_listener
from server.certificates import Authority, Pair

HEAD = b"GET /metrics HTTP/1.1\r\nhost: x\r\n"
LARGE = b"x" * (8 * 1024 * 1024)


async def metrics() -> bytes:
    """Return more than fits into the buffers of a connection."""
    return LARGE


async def status() -> dict[str, object]:
    """A server without facts."""
    return {}


async def console(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with the path below /console, and how it was reached."""
    text = f"{scope['root_path']} {scope['path']} {scope['scheme']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


class Port:
    """A listener on a port of its own."""

    def __init__(self, tls: TlsFiles | None = None) -> None:
        self.socket = open_listener("127.0.0.1:0", "RATELIMIT_OPERATIONS_LISTEN")
        self.port: int = self.socket.getsockname()[1]
        self.listener = Listener(self.socket, tls)
        self.readiness = Readiness(lambda: [{}], 1)
        self.listener.app = operations_app(
            metrics, self.readiness, status, console=console, console_needs_tls=tls is not None
        )

    async def send(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send a request, or a part of one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer

    async def ask(self, path: str, tls: ssl.SSLContext | None = None, rest: bytes = b"") -> str:
        """Send a request, and read until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".encode() + (rest or b"\r\n"))
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer.decode("latin-1")


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Port]:
    """A port in plain text, with bounds in time of one second."""
    port = Port()
    port.listener.start()
    yield port
    await port.listener.close(1)


@pytest.fixture(autouse=True)
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second instead of ten."""
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(connection, "STALL_SECONDS", 1.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate for localhost."""
    return Authority(tmp_path_factory.mktemp("tls")).issue("server")


async def closed_within(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """What is read until the peer closes the connection."""
    try:
        return await asyncio.wait_for(reader.read(), seconds)
    except ConnectionResetError:
        return b""


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte every tenth of a second, again and again."""
    while True:
        writer.write(data)
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("begin", "data"),
    [
        (b"", b""),
        (HEAD, b""),
        (HEAD, b"a"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + HEAD, b"a"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"a"),
        (b"POST /console/ HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"a"),
        (b"\x16\x03\x01", b"a"),
    ],
    ids=["nothing", "part of a head", "slow head", "slow second head", "slow body", "slow body to the console", "TLS"],
)
async def test_a_peer_that_takes_too_long(port: Port, begin: bytes, data: bytes) -> None:
    """A request must be there in whole in time, however its parts trickle in; else its connection is closed."""
    reader, writer = await port.send(begin)
    trickling = asyncio.create_task(trickle(writer, data))
    await closed_within(reader, 4)
    trickling.cancel()
    writer.close()
    assert (await port.ask("/healthz")).endswith("ok\n")


async def test_a_peer_that_does_not_read(port: Port) -> None:
    """A connection whose peer reads nothing of a long answer is closed, and the work for it ends."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port.port))
    raw.sendall(HEAD + b"\r\n")
    await asyncio.sleep(3.5)
    assert not port.listener._connections
    assert not port.listener._state.tasks
    raw.close()


async def test_a_peer_that_reads_slowly_but_reads(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on reading gets the whole answer, even if that takes longer than the bounds."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 2.5)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    raw.connect(("127.0.0.1", port.port))
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(raw, HEAD + b"connection: close\r\n\r\n")
    received, began = 0, loop.time()
    while data := await loop.sock_recv(raw, 64 * 1024):
        received += len(data)
        await asyncio.sleep(len(data) / len(LARGE) * 4)
    raw.close()
    assert received > len(LARGE)
    assert loop.time() - began > 3


async def test_a_connection_is_kept_for_the_next_request(port: Port) -> None:
    """Requests one after the other, each in time, share a connection for longer than one request may take."""
    reader, writer = await port.send(b"")
    for _ in range(8):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"ok\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.4)
    writer.close()


async def test_requests_that_come_before_the_answer(port: Port) -> None:
    """All are answered in order; of a peer that sends without a pause no more is buffered than was read once."""
    served = 0

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        """Respond after a moment in which it is looked after the peer, as calls by HTTP are."""
        nonlocal served
        await receive()
        gone = asyncio.ensure_future(receive())
        await asyncio.sleep(0.001)
        gone.cancel()
        served += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"."})

    port.listener.app = app
    reader, writer = await port.send(b"")
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nof a body"
    for part in (request + request[:30], request[30:-5], request[-5:] + 20 * request + request[:-1], request[-1:]):
        writer.write(part)
        await asyncio.sleep(0.02)
    for _ in range(23):
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n."), 5)).startswith(b"HTTP/1.1 200 ")
    assert served == 23
    writer.write(request * 500_000)
    async with asyncio.timeout(20):
        while served < 150:
            assert await reader.read(65_536)
    (busy,) = port.listener._http()
    assert len(busy.conn.trailing_data[0]) <= 2 * 256 * 1024
    writer.transport.abort()


async def test_the_number_of_connections(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are as many as may be, the one that waits for longest gives way; one that is answered does not."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    answered, busy = await port.send(HEAD + b"\r\n")
    await answered.readexactly(20)
    waiting = [await port.send(HEAD) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert (await port.ask("/healthz")).endswith("ok\n")
    assert await closed_within(waiting[0][0], 1) == b""
    assert len(await answered.readexactly(len(LARGE))) == len(LARGE)
    for writer in (busy, waiting[0][1], waiting[1][1]):
        writer.close()


async def test_peers_that_read_slowly_do_not_keep_others_out(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all connections are being read slowly, the oldest gives way to who asks for something else."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connection, "STALL_SECONDS", 10.0)
    slow = [await port.send(HEAD + b"\r\n") for _ in range(3)]
    for reader, _ in slow:
        await reader.readexactly(20)
    assert (await port.ask("/healthz")).endswith("ok\n")
    assert len(await slow[1][0].readexactly(len(LARGE))) == len(LARGE)
    for _, writer in slow:
        writer.close()


def test_streams_of_the_console_leave_room() -> None:
    """A stream is a connection that is never idle: all that the console allows are half of those that are accepted."""
    assert 2 * MAX_STREAMS <= listener.MAX_CONNECTIONS


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"x" * 20_000,
        b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 20_000,
        b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % n for n in range(3000)),
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ],
    ids=["long line", "long header", "many headers", "no HTTP", "no host", "two lengths"],
)
async def test_invalid_requests(port: Port, request_bytes: bytes) -> None:
    """They are refused with 400, and the connection is closed at once."""
    reader, writer = await port.send(request_bytes)
    assert (await closed_within(reader, 0.9)).startswith(b"HTTP/1.1 400 ")
    writer.close()


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 405)])
async def test_a_body_is_not_read(port: Port, method: str, status: int) -> None:
    """A request with a body is answered before that has arrived, and its connection is closed."""
    head = f"{method} /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    reader, writer = await port.send(head.encode())
    answer = await closed_within(reader, 0.9)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close\r\n" in answer
    writer.close()


async def test_tls_and_plain_text_on_one_port(certificate: Pair) -> None:
    """With a certificate a port speaks both; the console is served by TLS alone, the rest by either."""
    port = Port(TlsFiles(certificate.certificate, certificate.key))
    await port.readiness.probe({})
    port.listener.start()
    client = ssl.create_default_context(cafile=str(certificate.certificate.parent / "ca.pem"))
    try:
        assert (await port.ask("/readyz", client)).endswith("ready\n")
        assert (await port.ask("/readyz")).endswith("ready\n")
        assert (await port.ask("/console/keys", client)).count("/console /console/keys https") == 1
        for path in ("/console", "/console/", "/console/keys"):
            for rest in (b"\r\n", b"x-forwarded-proto: https\r\n\r\n"):
                assert (await port.ask(path, rest=rest)).startswith("HTTP/1.1 404 ")
        reader, writer = await port.send(b"\x16\x03\x01\x00\x05nonsense")
        await closed_within(reader, 2)
        writer.close()
        assert (await port.ask("/readyz", client)).endswith("ready\n")
    finally:
        await port.listener.close(1)


def test_connections_with_tls_are_bounded_on_the_loop_of_servers(certificate: Pair) -> None:
    """A peer that sends no request after the handshake is closed there too. It is the loop that `run_child` uses."""

    async def connect() -> bytes:
        port = Port(TlsFiles(certificate.certificate, certificate.key))
        port.listener.start()
        client = ssl.create_default_context(cafile=str(certificate.certificate.parent / "ca.pem"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port, ssl=client)
        try:
            return await closed_within(reader, 4)
        finally:
            writer.transport.abort()
            await port.listener.close(1)

    assert uvloop.run(connect()) == b""


async def test_a_renewed_certificate_is_served(certificate: Pair, tmp_path: Path) -> None:
    """New connections get the new certificate; files that do not fit together leave the old one in force."""
    pair = Pair(tmp_path / "server.pem", tmp_path / "server.key")
    certificate.write_over(pair)
    files = TlsFiles(pair.certificate, pair.key)
    first = files.context()
    assert first.minimum_version is ssl.TLSVersion.TLSv1_2
    assert files.context() is first
    pair.key.write_text("nonsense")
    assert files.context() is first
    certificate.write_over(pair)
    assert files.context() is not first


async def test_a_port_for_the_console_alone() -> None:
    """It has the console under the same path, and nothing else; in plain text where that is enough."""
    port = Port()
    port.listener.app = console_app(console, needs_tls=False)
    port.listener.start()
    assert (await port.ask("/console/keys")).count("/console /console/keys http") == 1
    assert "\r\nlocation: /console/\r\n" in await port.ask("/console")
    for path in ("/", "/metrics", "/readyz", "/consoles"):
        assert (await port.ask(path)).startswith("HTTP/1.1 404 ")
    await port.listener.close(1)


async def test_a_request_on_its_way_is_answered(port: Port) -> None:
    """A connection that was opened before the listener closed is served; one without a request is closed in time."""
    silent, silent_writer = await port.send(b"")
    reader, writer = await port.send(b"")
    while len(port.listener._connections) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    closing = asyncio.create_task(port.listener.close(1))
    await asyncio.sleep(0.1)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 2)
    assert answer.endswith(b"ok\n")
    assert not closing.done()
    await asyncio.wait_for(closing, 2)
    await closed_within(silent, 1)
    for each in (writer, silent_writer):
        each.close()


async def test_a_successor_serves_the_same_socket(port: Port) -> None:
    """Two listeners on one socket: when the first closes, connections go to the second, and none is refused."""
    other = Listener(socket.socket(fileno=socket.dup(port.socket.fileno())), None)
    other.app = port.listener.app
    other.start()
    asking = [asyncio.create_task(port.ask("/healthz")) for _ in range(20)]
    await port.listener.close(1)
    asking += [asyncio.create_task(port.ask("/healthz")) for _ in range(20)]
    for answer in await asyncio.gather(*asking):
        assert answer.endswith("ok\n")
    await other.close(1)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """What only processes of this machine can reach."""
    assert is_loopback(host) is loopback
