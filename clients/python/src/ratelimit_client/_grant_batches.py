"""Requests for units that go over a stream, many in a message, and what comes back of them."""

import threading
from collections import deque
from typing import Final

import grpc

from ._client_state import Status, error_from
from ._gen.ratelimit.v1.errors_pb2 import ErrorReason
from ._gen.ratelimit.v1.rate_limit_service_pb2 import CheckError, StreamGrantRequest, StreamGrantResponse
from ._grant_book import GrantBook
from ._grant_key import Asked
from .error import RateLimitError
from .options import Clock

_MAX_REQUESTS: Final = 64
_MAX_BYTES: Final = 48 * 1024
_SECOND: Final = 1_000_000_000  # nanoseconds
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class GrantBatches:
    """What was sent over one stream and has no answer yet, in order. For all threads."""

    def __init__(self, book: GrantBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Asked] = deque()
        self._sent: deque[tuple[int, list[Asked]]] = deque()

    def add(self, asked: Asked) -> None:
        """Have a request sent with the next message."""
        with self._lock:
            self._waiting.append(asked)

    def next_message(self) -> StreamGrantRequest | None:
        """The next message, None if there is nothing to be sent. It counts as sent."""
        with self._lock:
            batch: list[Asked] = []
            size = 0
            while self._waiting and len(batch) < _MAX_REQUESTS:
                size += self._waiting[0].message.ByteSize() + 4
                if batch and size > _MAX_BYTES:
                    break
                batch.append(self._waiting.popleft())
            if not batch:
                return None
            self._sent.append((self._clock(), batch))
            return StreamGrantRequest(requests=[asked.message for asked in batch])

    def received(self, response: StreamGrantResponse) -> None:
        """Take over what was granted, and what is withdrawn."""
        now = self._clock()
        if response.results:
            with self._lock:
                _, batch = self._sent.popleft()
            for asked, result in zip(batch, response.results, strict=True):
                if result.HasField("response"):
                    self._book.answered(asked, result.response, now)
                else:
                    self._book.failed(asked, _error_of(result.error), now)
        if response.withdrawals:
            self._book.withdraw([each.key_id for each in response.withdrawals], now)

    @property
    def oldest(self) -> int | None:
        """When the message was sent that waits for its answer the longest. None: no one does."""
        sent = self._sent
        return sent[0][0] if sent else None

    def end(self) -> list[Asked]:
        """All requests without an answer, after the stream has ended."""
        with self._lock:
            rest = [asked for _, batch in self._sent for asked in batch] + list(self._waiting)
            self._sent.clear()
            self._waiting.clear()
            return rest


def _error_of(error: CheckError) -> RateLimitError:
    reason = ErrorReason.Name(error.reason) if error.reason in ErrorReason.values() else ""
    return RateLimitError(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.message, reason, error.field)


def pause_after(status: Status) -> float:
    """Seconds until another stream is opened after one that has ended with STATUS."""
    code = status.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:  # by an earlier version of the service
        return 60.0
    return 0.1 if error_from(status).reason == "DRAINING" else 1.0
