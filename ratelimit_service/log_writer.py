"""Writes the log without ever making the process wait: whoever should read it may have stopped."""

import logging
import os
from collections import deque
from threading import Condition, Thread
from typing import Final

MAX_BYTES: Final = 2**20
"""Bytes of lines that wait to be written. Further ones are dropped, and counted."""

FLUSH_SECONDS: Final = 1.0
"""For which the end of the process waits for what is not written yet."""


class LogWriter(logging.Handler):
    """Writes lines to a descriptor in a thread of its own: a pipe that is full, or a slow disk, keeps only it waiting.

    Lines are written in order. Some that found no place are replaced by one that has their number.
    """

    def __init__(self, descriptor: int, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._changed = Condition()
        Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except Exception:  # noqa: BLE001  as all handlers do
            self.handleError(record)
            return
        with self._changed:
            if self._size + len(line) > self._max_bytes:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all lines are written, for FLUSH_SECONDS at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines = b"".join(self._lines)
                self._lines.clear()
            self._write(lines)
            with self._changed:
                self._size -= len(lines)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                self._write(self._describe(dropped))

    def _write(self, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:  # nobody will read it any more, or the disk is full
                return

    def _describe(self, dropped: int) -> bytes:
        values = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
        text = f"{dropped} lines of the log were dropped: it was not read, or its disk was slow"
        return self.format(logging.makeLogRecord({**values, "msg": text})).encode() + b"\n"
