"""What the streams of RateLimitService do with messages, on any transport."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Final, Protocol, TypeAlias, TypeVar

from ratelimit_service.api.authentication import Caller, require, require_known
from ratelimit_service.api.rate_limit.reader import MAX_BATCH, NewCheck, read_grants
from ratelimit_service.api.rate_limit.service import DecideGroup, RateLimitService
from ratelimit_service.api.recording import Recorder, nothing_described
from ratelimit_service.decision.engine import PreparedCheck
from ratelimit_service.decision.grant_watches import GrantWatch
from ratelimit_service.decision.grants import GrantCall
from ratelimit_service.errors import InvalidArgument, ServiceError, Unavailable
from ratelimit_service.management.tokens import Role

ANSWER_SECONDS: Final = 0.25
"""In which the requests of a message are answered. One whose key takes longer to be read fails alone, and is likely to
succeed when it is sent again: all others on the stream wait with it."""

_GRANTS_AT_ONCE: Final = 4
_GRANTS: Final = "/ratelimit.v1.RateLimitService/StreamGrant"

Item = TypeVar("Item")


class OpenStream(Protocol[Item]):
    """One stream that is open: it has messages read and answered, and may have some of its own to send."""

    max_group: int
    """Messages that are answered at a time, at most."""

    def read(self, messages: Sequence[bytes]) -> tuple[Sequence[Item], ServiceError | None]:
        """What MESSAGES ask for, up to the first that is malformed, and its error, which ends the stream."""
        ...

    def answer(self, items: Sequence[Item], caller: Caller, deadline: float | None, /) -> Awaitable[list[bytes]]:
        """The messages that answer what was read, in that order. Raises ServiceErrors, which end the stream."""
        ...

    @property
    def pending(self) -> "asyncio.Future[None] | None":
        """Done while there is something to send that nobody has asked for. None: there never is."""
        ...

    def take(self) -> bytes:
        """The message to send, while `pending` is done. Raises the ServiceError that ends the stream."""
        ...


Streams: TypeAlias = Callable[[], AbstractContextManager[OpenStream[Item]]]
"""Opens a stream of one method, until the block ends."""


async def answer(
    stream: OpenStream[Item], messages: Sequence[bytes], caller: Caller, deadline: float | None
) -> tuple[list[bytes], ServiceError | None]:
    """The messages that answer MESSAGES, up to the first that is malformed, and its error, which ends the stream."""
    read, error = stream.read(messages)
    return await stream.answer(read, caller, deadline) if read else [], error


class CheckStream:
    """A StreamCheckLimit. It keeps nothing from one group of checks to the next."""

    max_group = MAX_BATCH
    pending: None = None

    def __init__(self, service: RateLimitService, decide: DecideGroup) -> None:
        """DECIDE decides the checks that SERVICE has read."""
        self.read = service.reader.stream
        self.answer = decide

    def take(self) -> bytes:
        """Never called: it has nothing to send by itself."""
        raise NotImplementedError


def check_streams(service: RateLimitService, decide: DecideGroup) -> Streams[NewCheck | PreparedCheck]:
    """What opens streams of checks."""
    stream = CheckStream(service, decide)

    @contextmanager
    def opened() -> Iterator[OpenStream[NewCheck | PreparedCheck]]:
        yield stream

    return opened


class GrantStream:
    """A StreamGrant, which is also sent the withdrawals of what it was granted."""

    max_group = _GRANTS_AT_ONCE

    def __init__(self, service: RateLimitService, watch: GrantWatch, recorder: Recorder | None) -> None:
        """RECORDER records sampled groups of messages; None: none is sampled."""
        self._grants = service.grants
        self._encoder = service.encoder
        self._watch = watch
        self.answer = self._answer if recorder is None else recorder.groups(_GRANTS, self._answer, nothing_described)

    def read(self, messages: Sequence[bytes]) -> tuple[list[list[GrantCall]], ServiceError | None]:
        """The calls of each StreamGrantRequest."""
        read: list[list[GrantCall]] = []
        try:
            read.extend(map(read_grants, messages))
        except InvalidArgument as error:
            return read, error
        return read, None

    async def _answer(self, items: Sequence[list[GrantCall]], caller: Caller, deadline: float | None) -> list[bytes]:
        """A StreamGrantResponse for each list of calls."""
        require_known(caller)
        require(caller, Role.GATEWAY)
        answers = []
        for calls in items:
            until = monotonic() + ANSWER_SECONDS
            until = until if deadline is None else min(deadline, until)
            answers.append(self._encoder.encode_grants(await self._grants.grant_all(calls, until, self._watch)))
        return answers

    @property
    def pending(self) -> "asyncio.Future[None]":
        """Done while there are grants to be withdrawn."""
        return self._watch.pending

    def take(self) -> bytes:
        """A StreamGrantResponse that withdraws them. Raises Unavailable when the server drains."""
        if self._watch.ended:
            raise Unavailable(
                "this server is draining; open the stream again, another one will answer", reason="DRAINING"
            )
        return self._encoder.encode_withdrawals(self._watch.take())


def grant_streams(service: RateLimitService, recorder: Recorder | None) -> Streams[list[GrantCall]]:
    """What opens streams of grants. RECORDER records sampled groups of messages; None: none is sampled."""

    @contextmanager
    def opened() -> Iterator[OpenStream[list[GrantCall]]]:
        with service.grants.watches.one() as watch:
            yield GrantStream(service, watch, recorder)

    return opened
