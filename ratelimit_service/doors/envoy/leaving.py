"""The moment from which this process sends its callers elsewhere."""

import asyncio
from typing import TypeVar

T = TypeVar("T")


class Leaving:
    """Told once that the process drains. Streams, which may last for ever, end themselves then."""

    def __init__(self) -> None:
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        """Send everybody away. Again does nothing."""
        if not self._told.done():
            self._told.set_result(None)

    @property
    def told(self) -> bool:
        """Whether that has come."""
        return self._told.done()

    async def or_done(self, awaited: "asyncio.Future[T]") -> bool:
        """Wait until AWAITED is done or the process drains. Returns whether AWAITED is done; it is not cancelled."""
        await asyncio.wait((awaited, self._told), return_when=asyncio.FIRST_COMPLETED)
        return awaited.done()
