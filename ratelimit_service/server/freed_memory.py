"""Memory that is free goes back to the machine.

The gRPC library reads on a dozen threads, for each of which the C library keeps what was freed. Whoever has it hold
hundreds of MiB, as with headers without end, would leave them with the process for good.
"""

import asyncio
import ctypes
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

CHECK_SECONDS: Final = 5.0
"""Between two checks."""

GROWTH: Final = 64 * 1024 * 1024
"""Bytes by which a process may have grown since the last time before memory is released: it takes some milliseconds,
in which its threads wait for each other."""

TIMES: Final = 6
"""Checks at which memory is released after that, since what is in use at the first may be free a little later."""

_STATM: Final = Path("/proc/self/statm")


def resident() -> int:
    """The bytes of memory that this process takes."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def release_free() -> None:
    """Return what is free to the machine, if the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


async def keep_releasing(
    seconds: float = CHECK_SECONDS,
    size: Callable[[], int] = resident,
    release: Callable[[], None] = release_free,
) -> None:
    """Release memory TIMES times after this process has grown by GROWTH, until cancelled.

    Linux only; elsewhere it returns.
    """
    if not _STATM.exists():
        return
    least, times = size(), 0
    while True:
        await asyncio.sleep(seconds)
        with suppress(OSError):  # no descriptor is left, say
            if size() - least > GROWTH:
                least, times = size(), TIMES
            if times:
                await asyncio.to_thread(release)
                times -= 1
            least = min(least, size())
