"""Messages that have begun to arrive and are not whole: how many, how large, and for how long they are waited for.

Nearly every message arrives whole, and none of this is entered. What is left is a gateway on a slow network, or a
caller who sends one byte and waits, or sends byte after byte. Such a caller must not hold memory, nor have the event
loop run for every byte: messages are bounded in time and size, the bytes of one are read in fewer and fewer portions,
and when there are too many, those that have been waiting the longest give way. That holds for calls of which there is
nothing but headers too, which may be large, and cost their sender a byte each if they are in HPACK's table.
"""

import asyncio
from collections.abc import Hashable
from itertools import takewhile
from time import monotonic
from types import TracebackType
from typing import Final, NamedTuple, Self

from ratelimit_service.errors import Code, DeadlineExceeded, Unavailable
from ratelimit_service.transport.envoy.framing import CallerGone, Event, Receive, Send
from ratelimit_service.transport.envoy.responses import send_error

MESSAGE_SECONDS: Final = 5.0
"""Seconds in which a message must be whole once its first byte has arrived."""

CONNECTION_BYTES: Final = 2 * 1024 * 1024
"""Bytes of unfinished messages of one connection, beyond which no more of its calls are waited for."""

PROCESS_BYTES: Final = 8 * 1024 * 1024
"""The same for all connections, beyond which the calls that have been waiting the longest are given up."""

_CALL_BYTES: Final = 16 * 1024
"""Bytes that a call holds besides its message, about: its headers, its task."""

MAX_BARE: Final = 250
"""Calls of one message that may wait for its first part for longer than PATIENCE_SECONDS."""

PATIENCE_SECONDS: Final = 1.0
"""Seconds within which no call is given up for others: what is on its way arrives sooner, even if the loop is busy."""

_PAUSE: Final = 0.01
"""Seconds before the next portion after those, doubled each time."""

_MAX_PAUSE: Final = 0.5


class Patience(NamedTuple):
    """For how many SECONDS a message is waited for, and how many of its PORTIONS are read as they arrive."""

    seconds: float
    portions: int


ORDINARY: Final = Patience(MESSAGE_SECONDS, 8)
"""That with a message of MAX_MESSAGE bytes, of which this is twice the number of its frames."""


class Unfinished:
    """The unfinished messages of one process. Belongs to the running loop."""

    def __init__(self, per_connection: int = CONNECTION_BYTES, in_all: int = PROCESS_BYTES) -> None:
        """The bounds are in bytes."""
        self._per_connection = per_connection
        self._in_all = in_all
        self._waiting: dict[Wait, None] = {}
        self._connections: dict[Hashable, int] = {}
        self._bytes = 0

    @property
    def size(self) -> int:
        """Bytes that all unfinished messages hold."""
        return self._bytes

    def begin(self, connection: Hashable, patience: Patience = ORDINARY) -> "Wait":
        """Begin to wait for a message on CONNECTION, whatever identifies it. Use it in a `with` statement."""
        return Wait(self, connection, patience)

    def _hold(self, wait: "Wait", size: int) -> None:
        """WAIT holds SIZE bytes more, or less. Raises Unavailable."""
        held = self._connections.get(wait.connection, 0) + size
        if size > 0 and held > self._per_connection:
            raise _too_many()
        self._bytes += size
        self._connections[wait.connection] = held
        self._waiting[wait] = None
        while self._bytes > self._in_all and self._waiting:
            next(iter(self._waiting)).give_up()

    def _release(self, wait: "Wait", size: int) -> None:
        if self._waiting.pop(wait, 0) == 0:
            return
        self._bytes -= size
        held = self._connections[wait.connection] - size
        if held:
            self._connections[wait.connection] = held
        else:
            del self._connections[wait.connection]


class Wait:
    """One call that waits for the rest of its message, or for its caller to close its side."""

    __slots__ = ("_all", "_given_up", "_held", "_patience", "_portions", "_until", "connection")

    def __init__(self, unfinished: Unfinished, connection: Hashable, patience: Patience) -> None:
        self.connection = connection
        self._all = unfinished
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held = 0
        self._portions = 0
        self._patience = patience
        self._until = monotonic() + patience.seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all._release(self, self._held)  # noqa: SLF001 the two are one

    async def next(self, receive: Receive, size: int) -> Event:
        """The next part of the message, of which SIZE bytes have arrived.

        Raises Unavailable if too much is waited for, and DeadlineExceeded if that lasts too long.
        """
        if self._given_up.done():
            raise _too_many()
        held = _CALL_BYTES + size
        if held != self._held:
            self._all._hold(self, held - self._held)  # noqa: SLF001
            self._held = held
        self._portions += 1
        if self._portions > self._patience.portions:
            pause = min(_PAUSE * 2 ** min(self._portions - self._patience.portions - 1, 10), _MAX_PAUSE)
            await asyncio.wait((self._given_up,), timeout=min(pause, self._until - monotonic()))
        event = asyncio.ensure_future(receive())
        await asyncio.wait(
            (event, self._given_up), timeout=self._until - monotonic(), return_when=asyncio.FIRST_COMPLETED
        )
        if event.done():
            return event.result()
        if self._given_up.done():
            raise _too_many()
        raise DeadlineExceeded(
            f"the message was not whole {self._patience.seconds:.0f} seconds after it had begun to arrive, or the "
            "call's requests not ended; send both at once"
        )

    def give_up(self) -> None:
        """Wait no longer."""
        self._all._release(self, self._held)  # noqa: SLF001
        if not self._given_up.done():
            self._given_up.set_result(None)


class GivenUp(CallerGone):
    """The call was ended by us since its message did not come. It has its response."""


class Bare:
    """The calls of one process of which nothing but headers has arrived. Belongs to the running loop.

    Every call of one message is among them for a moment, so that it puts itself there, and takes itself out.
    """

    def __init__(self) -> None:
        self.waiting: dict[Receive, tuple[float, Send, str]] = {}
        """When each began, in monotonic seconds, how to respond, and its method. One that is missing was given up."""
        self._responding: set[asyncio.Task[Code]] = set()

    def since(self, began: float) -> int:
        """How many of these calls began since then, in monotonic seconds."""
        return sum(1 for _ in takewhile(lambda call: call[0] >= began, reversed(self.waiting.values())))

    def give_up(self, now: float) -> None:
        """Respond to those that have waited longest, which ends them, until there are fewer than MAX_BARE."""
        while len(self.waiting) >= MAX_BARE:
            receive, (began, send, method) = next(iter(self.waiting.items()))
            if now - began < PATIENCE_SECONDS:
                return
            del self.waiting[receive]
            task = asyncio.ensure_future(send_error(send, _too_many(), method))
            self._responding.add(task)
            task.add_done_callback(self._responding.discard)


def _too_many() -> Unavailable:
    return Unavailable(
        "too many messages have begun to arrive and are not whole; send each at once", reason="TOO_MANY_AT_ONCE"
    )
