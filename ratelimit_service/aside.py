"""Work that takes long, beside the event loop: calls and probes go on meanwhile."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SMALL: Final = 16 * 1024
"""Bytes or characters up to which work is not worth a thread: a millisecond or less."""

_SWITCH_SECONDS: Final = 0.0003
"""After which the event loop gets its turn while something runs beside it. It waits for that again and again."""

_DEFAULT: Final = sys.getswitchinterval()


class Aside:
    """A thread of this process that does one thing at a time: several would share what is left of the interpreter."""

    _lock = Lock()
    _running = 0

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)

    async def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what WORK returns, which may use nothing that belongs to the event loop.

        Work that has begun goes on when its caller is cancelled.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, partial(work, *args, **kwargs))

    @staticmethod
    def _run(work: Callable[[], T]) -> T:
        Aside._count(1)
        try:
            return work()
        finally:
            Aside._count(-1)

    @classmethod
    def _count(cls, change: int) -> None:
        with cls._lock:
            cls._running += change
            sys.setswitchinterval(_SWITCH_SECONDS if cls._running else _DEFAULT)


aside: Final = Aside("aside")
"""For what takes less than a tenth of a second, and may be awaited within a transaction."""
