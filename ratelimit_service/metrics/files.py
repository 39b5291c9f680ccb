"""Files of metrics that a full disk cannot turn into a crash."""

import os
from errno import ENOSPC
from mmap import mmap
from pathlib import Path
from sys import byteorder
from typing import Final

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_BYTES: Final = 2**16
_EMPTY: Final = (8).to_bytes(4, byteorder)  # the bytes in use

_log = structlog.stdlib.get_logger(__name__)


class AllocatedFile(MmapedDict):
    """The library's file of numbers, with blocks on the disk before it is mapped.

    The library maps holes, and a write to one when the disk is full ends the process (SIGBUS). Where there are no
    blocks to be had, this one goes on in memory: what is counted from then on is not scraped, but the process lives.
    """

    def __init__(self, filename: str) -> None:
        """Open a file for writing, and make it if it is missing."""
        self._stored = True
        try:
            make_file(Path(filename))
            super().__init__(filename)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._fname, self._positions = filename, {}
            self._leave(b"".ljust(_BYTES, b"\0"), error)
            self._m[:4], self._used = _EMPTY, 8

    def _init_value(self, key: str) -> None:
        if self._used + 4 * len(key) + 64 > self._capacity:  # at least what it takes
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        try:
            self._m = self._grown()
        except OSError as error:
            self._leave(self._m[:].ljust(2 * self._capacity, b"\0"), error)
        else:
            self._capacity *= 2

    def _grown(self) -> mmap:
        if not self._stored:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        self._f.write(bytes(self._capacity))  # opened to append
        self._f.flush()
        return mmap(self._f.fileno(), 2 * self._capacity)

    def _leave(self, content: bytes, error: OSError) -> None:
        """Go on in memory."""
        self._stored, self._capacity = False, len(content)
        self._m = mmap(-1, len(content))
        self._m[:] = content
        _log.error(
            "metrics cannot be stored: what this process counts is not shown until it starts anew; free space",
            file=self._fname,
            error=error.strerror,
        )


def make_file(file: Path) -> None:
    """Make a whole file or none: one that reads a part of it would fail."""
    if file.exists():
        return
    part = file.with_suffix(".new")
    try:
        part.write_bytes(_EMPTY.ljust(_BYTES, b"\0"))
        part.rename(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def use_allocated_files() -> None:
    """Have this process count in such files. Call it before the first metric is made."""
    values.MmapedDict = AllocatedFile  # type: ignore[attr-defined, assignment]
