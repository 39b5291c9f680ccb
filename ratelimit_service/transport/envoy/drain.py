"""Draining: streams, which may never end by themselves, end so that their callers open them on another server."""

import asyncio
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

_IDLE_SECONDS: Final = 0.1
"""Seconds without a message after which a stream is ended."""

_GRACE_SECONDS: Final = 1.0
"""Seconds after which a stream is ended although messages still arrive."""


class Drain:
    """Begins once, when the process is to end. Belongs to the running loop."""

    def __init__(self) -> None:
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._grace_ends = 0.0

    def begin(self) -> None:
        """Begin to drain. Does nothing if it has begun already."""
        if not self._begun.done():
            self._grace_ends = monotonic() + _GRACE_SECONDS
            self._begun.set_result(None)

    async def wait(
        self,
        awaited: "asyncio.Future[T]",
        revoked: "asyncio.Future[None]",
        pending: "asyncio.Future[None] | None" = None,
    ) -> bool:
        """Wait until AWAITED is done. Returns False if the drain ended the wait, or PENDING is done before.

        Raises what REVOKED has failed with. What was sent before the sender could know of the drain is waited for:
        AWAITED gets _IDLE_SECONDS, within the grace period. It is not cancelled.
        """
        if not self._begun.done():
            ends = (self._begun, revoked) if pending is None else (self._begun, revoked, pending)
            await asyncio.wait((awaited, *ends), return_when=asyncio.FIRST_COMPLETED)
        if revoked.done():
            revoked.result()
        if pending is not None and pending.done():
            return awaited.done()
        if not awaited.done():
            timeout = min(_IDLE_SECONDS, self._grace_ends - monotonic())
            if timeout > 0:
                await asyncio.wait((awaited,), timeout=timeout)
        return awaited.done()
