"""An end to conversations with a database that has stopped answering."""

import asyncio
import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg


class Fuse:
    """Cuts a connection when its block takes longer than `seconds`, so that whoever waits on it learns at once.

    Cancelling the wait would not do: the driver then first asks the server to cancel the query, and a server that does
    not answer keeps it waiting for another ten seconds. What was cut raises TimeoutError.
    """

    def __init__(self, connection: psycopg.AsyncConnection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._blown = False

    def __enter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._blow)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._blown and isinstance(fault, Exception):
            raise TimeoutError(f"it did not answer within {self._seconds:g} s") from fault

    def _blow(self) -> None:
        self._blown = True
        if self._connection.closed:
            return
        # A copy of the descriptor: the connection stays the driver's own to close.
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
