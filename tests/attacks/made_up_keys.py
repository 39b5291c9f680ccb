"""An attacker who makes up keys: each has the form and the checksum of one, and is used once."""

import random
import socket
import string
import threading
import time
from collections import Counter
from typing import Final

from hpack import Decoder

from attacks import frames
from attacks.victim import CHECK
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.decision.api_key import ApiKey

PER_SECOND: Final = 2_500
"""Of each attacker: three together make up more ids than the service may read from Postgres."""

MAX_IN_FLIGHT: Final = 100
_LETTERS: Final = string.ascii_letters + string.digits


def made_up_key() -> str:
    """A key that the service has to look up."""
    text = "".join(random.choices(_LETTERS, k=43))
    return str(ApiKey("live", text[:16], text[16:]))


def flood(address: str, until: float) -> Counter[str]:
    """Check PER_SECOND made-up keys each second, as far as the server keeps up, and count the reasons of the answers.

    A call that is too late counts as `late`, any other error as `error`, and a deferral that does not say to try again
    in a second as `impatient`.
    """
    attacker = _Attacker(address)
    due = time.monotonic()
    while (now := time.monotonic()) < until:
        due = max(due + 1 / PER_SECOND, now - 0.1)
        time.sleep(max(0.0, due - now))
        attacker.call(CheckLimitRequest(api_key=made_up_key()).SerializeToString())
    time.sleep(0.5)
    return attacker.close()


class _Attacker:
    """One connection, with a thread that reads it."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._socket.settimeout(None)
        self._socket.sendall(frames.opening())
        self._block = frames.header_block(CHECK, grpc_timeout="100m")
        self._counted: Counter[str] = Counter()
        self._bodies: dict[int, bytes] = {}
        self._headers = Decoder()
        self._turns = threading.Semaphore(MAX_IN_FLIGHT)
        self._window = frames.DEFAULT_WINDOW
        self._credit = threading.Condition()
        self._writes = threading.Lock()
        self._stream = 1
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, data: bytes) -> None:
        """Make a call, once the server takes one more."""
        if not self._turns.acquire(timeout=1):
            return
        body = frames.message(data)
        with self._credit:
            self._credit.wait_for(lambda: self._window >= len(body), timeout=1)
            self._window -= len(body)
        self._write(frames.call(self._stream, self._block, body))
        self._stream += 2

    def close(self) -> Counter[str]:
        """End, and return what was counted."""
        self._socket.close()
        return self._counted

    def _write(self, data: bytes) -> None:
        with self._writes:
            self._socket.sendall(data)

    def _read(self) -> None:
        reader = frames.FrameReader()
        try:
            while data := self._socket.recv(65_536):
                for kind, flags, stream, payload in reader.feed(data):
                    self._take(kind, flags, stream, payload)
        except OSError:
            return

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        elif kind == frames.HEADERS:
            fields = dict(self._headers.decode(payload, raw=True))
            if flags & frames.END_STREAM:
                self._turns.release()
                self._counted[_outcome(fields, self._bodies.pop(stream, b""))] += 1
        elif kind == frames.RESET:
            self._turns.release()
            self._counted["error"] += 1
        elif kind == frames.WINDOW and stream == 0:
            with self._credit:
                self._window += int.from_bytes(payload, "big")
                self._credit.notify_all()
        elif kind in {frames.SETTINGS, frames.PING} and not flags & frames.ACK:
            self._write(frames.frame(kind, frames.ACK, 0, payload if kind == frames.PING else b""))


def _outcome(fields: dict[bytes, bytes], body: bytes) -> str:
    status = fields.get(b"grpc-status")
    if status != b"0":
        return "late" if status == b"4" else "error"
    answer = CheckLimitResponse.FromString(body[5:])
    if answer.reason == CheckLimitResponse.DEGRADED_DENIED and answer.retry_after.ToSeconds() != 1:
        return "impatient"
    return CheckLimitResponse.Reason.Name(answer.reason).lower()
