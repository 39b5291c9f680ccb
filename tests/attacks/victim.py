"""The victim: a known key that is checked 200 times a second on a connection of its own, whatever happens beside it.

It runs as a process of its own, in an open loop: a call is due whether or not the last one was answered, and its
latency counts from when it was due. It honours the bound of streams that the server announces, opens its connection
again when the server closes it, makes a call again that was refused unread (REFUSED_STREAM), as clients' libraries do,
and gives each call one second, as a patient gateway would. Two threads on one blocking
socket, so that timers are exact and a call costs about 100 us: the victim is never the bottleneck.

It reports by a pipe: READY after its first answer, and all its calls once something arrives by it.
"""

import gc
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Final, Self

from hpack import Decoder

from attacks import frames
from attacks.processes import end, fork
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse

CHECK: Final = "/ratelimit.v1.RateLimitService/CheckLimit"
RATE: Final = 200
TIMEOUT_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 1.5
"""For which the calls in flight at the end are waited for."""

READY: Final = "ready"

ALLOWED, DENIED, DEGRADED = "allowed", "denied", "degraded"
"""The outcomes of answers; any other outcome is an error, in words."""

_DEGRADED = {CheckLimitResponse.DEGRADED_ALLOWED, CheckLimitResponse.DEGRADED_DENIED}


@dataclass(frozen=True)
class Call:
    """One call: when it was due (monotonic seconds), the seconds until its answer, and its outcome."""

    due: float
    seconds: float
    outcome: str


@dataclass(frozen=True)
class Figures:
    """What the calls of a span of time met."""

    calls: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    denied: int = 0
    degraded: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, calls: Sequence[Call]) -> Self:
        """The figures of these calls. Errors count with the time until they came."""
        ordered = sorted(call.seconds * 1e3 for call in calls) or [0.0]
        outcomes = Counter(call.outcome for call in calls)
        return cls(
            calls=len(calls),
            p50_ms=ordered[len(ordered) // 2],
            p99_ms=ordered[len(ordered) * 99 // 100],
            max_ms=ordered[-1],
            denied=outcomes.pop(DENIED, 0),
            degraded=outcomes.pop(DEGRADED, 0),
            errors=Counter({outcome: count for outcome, count in outcomes.items() if outcome != ALLOWED}),
        )


class Victim:
    """The running process. `started` returns once it has had an answer; `stop` returns all its calls."""

    def __init__(self, address: str, api_key: str, *, token: str = "", rate: int = RATE) -> None:
        self._process, self._pipe = fork(_call, address, api_key, token, rate)
        assert self._pipe.poll(30)
        assert self._pipe.recv() == READY

    def stop(self) -> list[Call]:
        """End it, and return its calls in the order in which they were due."""
        try:
            self._pipe.send(None)
            assert self._pipe.poll(30)
            return [Call(*values) for values in self._pipe.recv()]
        finally:
            end(self._process, self._pipe)


class _Connection:
    """One HTTP/2 connection, with a thread that reads it. `lost` is why no more calls can be made on it, or empty."""

    def __init__(self, address: str, token: str, finished: list[Call]) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self._socket.sendall(frames.opening())
        more = {"authorization": f"Bearer {token}"} if token else {}
        self._block = frames.header_block(CHECK, grpc_timeout="1S", **more)
        self._finished = finished
        self._turn = threading.Condition()
        self._in_flight: dict[int, float] = {}
        self._bodies: dict[int, bytes] = {}
        self._window = frames.DEFAULT_WINDOW
        self._bound = frames.MAX_WINDOW
        self._stream = 1
        self._headers = Decoder()
        self._writes = threading.Lock()
        self.refused: deque[float] = deque()
        """When the calls were due that are to be made again."""
        self.lost = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def call(self, due: float, body: bytes) -> None:
        """Make a call as soon as the server takes one more."""
        with self._turn:
            while not self.lost and (len(self._in_flight) >= self._bound or self._window < len(body)):
                self._turn.wait(1)
            if self.lost:
                self._finish(due, self.lost)
                return
            stream, self._stream = self._stream, self._stream + 2
            self._window -= len(body)
            self._in_flight[stream] = due
        self._write(frames.call(stream, self._block, body))

    def wait_until_idle(self, seconds: float) -> None:
        """Wait for the calls in flight, then count the others as unanswered."""
        until = time.monotonic() + seconds
        with self._turn:
            while self._in_flight and time.monotonic() < until:
                self._turn.wait(0.05)
        self._end("unanswered")

    def _write(self, data: bytes) -> None:
        try:
            with self._writes:
                self._socket.sendall(data)
        except OSError as error:
            self._end(f"connection: {error}")

    def _read(self) -> None:
        reader = frames.FrameReader()
        try:
            while data := self._socket.recv(65_536):
                for kind, flags, stream, payload in reader.feed(data):
                    self._take(kind, flags, stream, payload)
        except OSError as error:
            self._end(f"connection: {error}")
        else:
            self._end("connection closed")

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == frames.HEADERS:
            headers = dict(self._headers.decode(payload, raw=True))
            if flags & frames.END_STREAM:
                self._answered(stream, headers)
        elif kind == frames.RESET:
            self._reset(stream, int.from_bytes(payload, "big"))
        elif kind == frames.GOAWAY:
            self._end(f"GOAWAY {int.from_bytes(payload[4:8], 'big')}")
        elif stream == 0 and not flags & frames.ACK:
            self._take_control(kind, payload)

    def _take_control(self, kind: int, payload: bytes) -> None:
        if kind == frames.WINDOW:
            with self._turn:
                self._window += int.from_bytes(payload, "big")
                self._turn.notify_all()
        elif kind == frames.SETTINGS:
            for start in range(0, len(payload), 6):
                if int.from_bytes(payload[start : start + 2], "big") == frames.MAX_CONCURRENT_STREAMS:
                    self._bound = int.from_bytes(payload[start + 2 : start + 6], "big")
            self._write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING:
            self._write(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _answered(self, stream: int, headers: dict[bytes, bytes]) -> None:
        status = headers.get(b"grpc-status", b"none").decode()
        if status != "0":
            self._end_call(stream, f"grpc-status {status}: {headers.get(b'grpc-message', b'').decode()}")
            return
        answer = CheckLimitResponse.FromString(self._bodies.get(stream, b"")[5:])
        outcome = DEGRADED if answer.reason in _DEGRADED else ALLOWED if answer.allowed else DENIED
        self._end_call(stream, outcome)

    def _reset(self, stream: int, code: int) -> None:
        due = self._in_flight.get(stream)
        if code != frames.REFUSED_STREAM or due is None or time.monotonic() > due + TIMEOUT_SECONDS:
            self._end_call(stream, f"reset {code}")
            return
        with self._turn:
            del self._in_flight[stream]
            self.refused.append(due)
            self._turn.notify_all()

    def _end_call(self, stream: int, outcome: str) -> None:
        with self._turn:
            self._bodies.pop(stream, None)
            due = self._in_flight.pop(stream, None)
            if due is not None:
                self._finish(due, outcome)
            self._turn.notify_all()

    def _end(self, reason: str) -> None:
        with self._turn:
            self.lost = self.lost or reason
            for due in (*self._in_flight.values(), *self.refused):
                self._finish(due, reason)
            self._in_flight.clear()
            self.refused.clear()
            self._turn.notify_all()
        self._socket.close()

    def _finish(self, due: float, outcome: str) -> None:
        self._finished.append(Call(due, time.monotonic() - due, outcome))


def _call(pipe: Pipe, address: str, api_key: str, token: str, rate: int) -> None:
    """Call until something arrives by the pipe, and send all calls by it."""
    gc.freeze()  # what was imported before the fork
    finished: list[Call] = []
    body = frames.message(CheckLimitRequest(api_key=api_key, resource="victim").SerializeToString())
    ended = threading.Event()
    threading.Thread(target=lambda: (pipe.poll(None), ended.set()), daemon=True).start()
    connection: _Connection | None = None
    due, ready = time.monotonic(), False
    while not ended.is_set():
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if connection is None or connection.lost:
                connection = _Connection(address, token, finished)
        except OSError as error:
            finished.append(Call(due, time.monotonic() - due, f"connect: {error}"))
            continue
        for again in [connection.refused.popleft() for _ in range(len(connection.refused))]:
            connection.call(again, body)
        connection.call(due, body)
        if not ready and finished:
            ready = True
            pipe.send(READY)
    if connection is not None:
        connection.wait_until_idle(GRACE_SECONDS)
    pipe.send([(call.due, call.seconds, call.outcome) for call in sorted(finished, key=lambda call: call.due)])
