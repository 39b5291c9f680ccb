"""The moment from which this process sends its callers elsewhere."""

import asyncio
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

_QUIET: Final = 0.1
"""Seconds of silence after which a stream is taken to have said all it had to say."""

_PATIENCE: Final = 1.0
"""Seconds after which a stream is ended though it goes on talking."""


class Drain:
    """Told once that the process drains. Streams, which may last for ever, end themselves then."""

    def __init__(self) -> None:
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._patient_until = 0.0

    def begin(self) -> None:
        """Send everybody away. Again does nothing."""
        if not self._begun.done():
            self._patient_until = monotonic() + _PATIENCE
            self._begun.set_result(None)

    async def or_done(self, awaited: "asyncio.Future[T]") -> bool:
        """Wait until AWAITED is done, or it is time to leave without it. Returns whether it is done.

        What was sent before the caller could know is waited for: AWAITED gets a moment, as long as the process is still
        patient. It is not cancelled.
        """
        if not self._begun.done():
            await asyncio.wait((awaited, self._begun), return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            patience = min(_QUIET, self._patient_until - monotonic())
            if patience > 0:
                await asyncio.wait((awaited,), timeout=patience)
        return awaited.done()
