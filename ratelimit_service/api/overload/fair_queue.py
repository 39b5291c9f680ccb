"""The calls that wait for their turn, and whose turn is next."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

_SAMPLED: Final = 8
"""Queues that are compared to find a long one: comparing all would cost the more the more callers there are."""


class Share(NamedTuple):
    """Whose share of the server a call uses: that of a caller, and within it that of a connection.

    `caller` is the name of one that was verified. All others together are one caller, with an empty name: whoever opens
    a thousand connections gets no more than one share beside the callers that are known.
    """

    caller: str
    connection: Hashable


class Generation:
    """The calls that began in one period."""

    __slots__ = ("count", "written_off")

    def __init__(self) -> None:
        self.count = 0
        self.written_off = False


Turn: TypeAlias = "asyncio.Future[Generation | None]"
"""The turn of a call that waits: it begins with what `OverloadControl.end` needs, or is refused with None."""


class Waiting:
    """A call that waits."""

    __slots__ = ("deadline", "queue", "share", "since", "turn")

    def __init__(self, turn: Turn, since: float, deadline: float | None, share: Share) -> None:
        """SINCE and DEADLINE are monotonic times in seconds; without a deadline the caller waits for any time."""
        self.turn = turn
        self.share = share
        self.since = since
        self.deadline = deadline
        self.queue: _Connection | None = None


class _Connection:
    """The waiting calls of one connection, oldest first."""

    __slots__ = ("caller", "name", "waiting")

    def __init__(self, caller: "_Caller", name: Hashable) -> None:
        self.caller = caller
        self.name = name
        self.waiting: deque[Waiting] = deque()


class _Caller:
    """The connections of one caller that have waiting calls, the next one first."""

    __slots__ = ("connections", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: OrderedDict[Hashable, _Connection] = OrderedDict()


class FairQueue:
    """Calls wait in a queue for each connection of each caller, and the queues take turns.

    This is fair queueing as in FQ-CoDel (RFC 8290), with calls in place of packets: a caller with a short queue loses
    nothing to one with a long queue, and what one does not use the others get. Within a queue the oldest is first, or
    the newest where that is wanted. Nothing here takes longer the more calls or callers wait, except to remove a call
    that is not the oldest of its connection.
    """

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._by_age: deque[Waiting] = deque()
        self._count = 0
        self._queues = 0

    def __len__(self) -> int:
        return self._count

    @property
    def shared(self) -> bool:
        """Whether calls of more than one connection wait."""
        return self._queues > 1

    def push(self, share: Share, call: Waiting) -> None:
        """Add a call, which is the newest."""
        caller = self._callers.get(share.caller)
        if caller is None:
            caller = self._callers[share.caller] = _Caller(share.caller)
        connection = caller.connections.get(share.connection)
        if connection is None:
            connection = caller.connections[share.connection] = _Connection(caller, share.connection)
            self._queues += 1
        call.queue = connection
        connection.waiting.append(call)
        self._by_age.append(call)
        self._count += 1

    def pop(self, *, newest: bool) -> Waiting:
        """Remove the newest or oldest call of the queue whose turn it is. There must be one."""
        caller = next(iter(self._callers.values()))
        connection = next(iter(caller.connections.values()))
        self._callers.move_to_end(caller.name)
        caller.connections.move_to_end(connection.name)
        call = connection.waiting.pop() if newest else connection.waiting.popleft()
        self._removed(call, connection)
        return call

    def oldest(self) -> Waiting | None:
        """The call that has waited longest, which stays."""
        by_age = self._by_age
        while by_age and by_age[0].queue is None:
            by_age.popleft()
        return by_age[0] if by_age else None

    def remove(self, call: Waiting) -> None:
        """Remove a call, if it still waits: at once if it is the oldest of its queue, as that of `oldest` is."""
        connection = call.queue
        if connection is None:
            return
        if connection.waiting[0] is call:
            connection.waiting.popleft()
        else:
            connection.waiting.remove(call)
        self._removed(call, connection)

    def remove_from_long_queue(self, newcomer: Share) -> Waiting:
        """Remove the oldest call of a long queue, to make room for one of NEWCOMER. There must be a call.

        The queue is the newcomer's own, if that has its share already.
        """
        caller = self._callers.get(newcomer.caller)
        connection = None if caller is None else caller.connections.get(newcomer.connection)
        if connection is None or len(connection.waiting) * self._queues < self._count:
            connection = self._long_queue()
        call = connection.waiting[0]
        self.remove(call)
        return call

    def _long_queue(self) -> _Connection:
        sampled = (
            connection
            for caller in islice(self._callers.values(), _SAMPLED)
            for connection in islice(caller.connections.values(), _SAMPLED)
        )
        return max(sampled, key=lambda connection: len(connection.waiting))

    def _removed(self, call: Waiting, connection: _Connection) -> None:
        call.queue = None
        self._count -= 1
        if len(self._by_age) > 2 * self._count + _SAMPLED:
            self._by_age = deque(waiting for waiting in self._by_age if waiting.queue is not None)
        if connection.waiting:
            return
        caller = connection.caller
        del caller.connections[connection.name]
        self._queues -= 1
        if not caller.connections:
            del self._callers[caller.name]
