"""Extends the holds of open scopes in the background of the client for threads."""

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable

_IDLE = 10.0
"""Seconds that the thread waits for a scope before it ends."""
_MAX_WAIT = 3600.0
_MIN_COMPACTED = 64


class Extension:
    """One extension that is due."""

    __slots__ = ("due", "number", "send")

    def __init__(self, due: float, number: int, send: Callable[[], object]) -> None:
        self.due = due
        self.number = number
        self.send: Callable[[], object] | None = send

    def __lt__(self, other: "Extension") -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Extender:
    """A schedule with one daemon thread for all scopes of a client, which runs while there are any."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[Extension] = []
        self._cancelled = 0
        self._numbers = itertools.count()
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    def schedule(self, after: float, send: Callable[[], object]) -> Extension:
        """Call SEND, which must not block, in AFTER seconds."""
        extension = Extension(time.monotonic() + after, next(self._numbers), send)
        with self._condition:
            if self._closed:
                return extension
            heapq.heappush(self._heap, extension)
            if self._thread is None or not self._thread.is_alive():  # after a fork it is not
                self._thread = threading.Thread(target=self._run, name="ratelimit-extender", daemon=True)
                self._thread.start()
            elif extension.due < self._wakes_at:
                self._condition.notify()
        return extension

    def cancel(self, extension: Extension) -> None:
        """Forget EXTENSION, which may have been sent already."""
        with self._condition:
            if extension.send is None:
                return
            extension.send = None
            self._cancelled += 1
            if self._cancelled > max(_MIN_COMPACTED, len(self._heap) // 2):
                self._heap = [one for one in self._heap if one.send is not None]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def close(self) -> None:
        """Forget all extensions, without waiting for the thread."""
        with self._condition:
            self._closed = True
            self._heap.clear()
            self._condition.notify()

    def _run(self) -> None:
        while (send := self._next()) is not None:
            with contextlib.suppress(ValueError):  # the client was closed meanwhile
                send()

    def _next(self) -> Callable[[], object] | None:
        """The next extension, once it is due. None: the thread ends."""
        with self._condition:
            while not self._closed:
                while self._heap and self._heap[0].send is None:
                    heapq.heappop(self._heap)
                    self._cancelled -= 1
                now = time.monotonic()
                if not self._heap:
                    self._wakes_at = now + _IDLE
                    if not self._condition.wait(_IDLE) and not self._heap:
                        break
                elif self._heap[0].due > now:
                    self._wakes_at = min(self._heap[0].due, now + _MAX_WAIT)
                    self._condition.wait(self._wakes_at - now)
                else:
                    extension = heapq.heappop(self._heap)
                    send, extension.send = extension.send, None
                    return send
            self._thread = None
            return None
