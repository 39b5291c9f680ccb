"""A stream of grants of the client for threads, by which they are withdrawn, too."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias, cast

import grpc

from ._gen.ratelimit.v1.rate_limit_service_pb2 import StreamGrantRequest, StreamGrantResponse
from ._grant_batches import GrantBatches, pause_after
from ._grant_key import Asked

# Generic for type checkers only.
Open: TypeAlias = "Callable[[Iterator[StreamGrantRequest]], grpc._CallIterator[StreamGrantResponse]]"  # noqa: SLF001
"""Opens a StreamGrant over the next connection."""


class GrantStream:
    """At most one stream at a time, opened when there is something to send, and again after a pause.

    gRPC has a thread that sends, and this one that receives; both are daemons.
    """

    def __init__(
        self,
        open_stream: Open,
        batches: Callable[[], GrantBatches],
        received: Callable[[], None],
        ended: Callable[[list[Asked]], None],
    ) -> None:
        """RECEIVED is called after each message, ENDED when it has ended, with the requests that have no answer."""
        self._open = open_stream
        self._make_batches = batches
        self._received = received
        self._ended = ended
        self._lock = threading.Lock()
        self._current: _Opened | None = None
        self._opens_at = 0.0
        self._closed = False

    def send(self, asked: Asked) -> bool:
        """Send a request with the next message. False: there is no stream for it."""
        with self._lock:
            if self._current is None:
                if self._closed or time.monotonic() < self._opens_at:
                    return False
                self._current = _Opened(self._make_batches(), self._run)
            self._current.batches.add(asked)
            self._current.wake.put("send")
            return True

    @property
    def oldest(self) -> int | None:
        """When the message was sent that waits for its answer the longest. None: no one does."""
        current = self._current
        return None if current is None else current.batches.oldest

    def cancel(self) -> None:
        """End the stream, which does not answer."""
        current = self._current
        if current is not None:
            current.cancel()

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            self._closed = True
        self.cancel()

    def forked(self) -> None:
        """In a child process: the stream is its parent's."""
        self._lock = threading.Lock()
        self._current = None

    def _run(self, opened: "_Opened") -> None:
        pause = 1.0
        try:
            call = self._open(opened.messages())
            opened.call = call
            for response in call:
                opened.batches.received(response)
                self._received()
        except grpc.RpcError as status:
            pause = pause_after(cast("grpc.Call", status))
        except ValueError:  # of a channel that is closed, or of a message with other results than were asked for
            opened.cancel()
        with self._lock:
            self._current, self._opens_at = None, time.monotonic() + pause
        opened.wake.put("end")
        self._ended(opened.batches.end())


class _Opened:
    """One stream, from when it is opened to its end."""

    def __init__(self, batches: GrantBatches, run: "Callable[[_Opened], None]") -> None:
        self.batches = batches
        self.wake: queue.SimpleQueue[Literal["send", "end"]] = queue.SimpleQueue()
        self.call: grpc._CallIterator[StreamGrantResponse] | None = None
        threading.Thread(target=run, args=(self,), name="ratelimit-grant-stream", daemon=True).start()

    def messages(self) -> Iterator[StreamGrantRequest]:
        """What is sent, until the stream has ended."""
        while self.wake.get() == "send":
            message = self.batches.next_message()
            if message is not None:
                yield message

    def cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()
        self.wake.put("end")
