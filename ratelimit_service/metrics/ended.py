"""What ended processes have counted, in one file of each kind: else each restart would make scrapes slower for good."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfile
from sys import byteorder
from typing import Final

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

from ratelimit_service.metrics.files import make_file

_KINDS: Final = ("counter", "histogram")
_ENDED: Final = ".ended"
_SUMMED: Final = ".summed"


def forget_worker(pid: int, directory: Path) -> None:
    """Drop the gauges of the process that had this id; its counters still count."""
    mark_process_dead(pid, os.fspath(directory))  # type: ignore[no-untyped-call]
    (directory / f"{pid}{_ENDED}").touch()


@contextmanager
def settled(directory: Path) -> Iterator[None]:
    """Fold the files of ended processes, and keep other processes from doing so for the length of the block."""
    with (directory / "lock").open("w") as lock:
        with suppress(OSError):  # another process reads or folds, or the disk is full: the next time will do
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _fold_ended(directory)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _fold_ended(directory: Path) -> None:
    for summed in directory.glob(f"*{_SUMMED}"):  # left by a process that was killed here
        _replace_total(summed)
    for mark in directory.glob(f"*{_ENDED}"):
        for kind in _KINDS:
            source = directory / f"{kind}_{mark.stem}.db"
            if source.exists():
                _replace_total(_sum(source, directory / f"{kind}_ended.db"))
        mark.unlink()


def _sum(source: Path, total: Path) -> Path:
    """A file with the sums of both. It exists only when it is complete, and from then on counts in place of both."""
    part = source.with_suffix(".part")
    part.unlink(missing_ok=True)
    if total.exists():
        copyfile(total, part)
    else:
        make_file(part)
    _make_room(part, source.stat().st_size)
    sums = MmapedDict(os.fspath(part))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(source):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, timestamp)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]
    return part.rename(source.with_suffix(_SUMMED))


def _make_room(file: Path, size: int) -> None:
    """Have a file take SIZE more bytes without growing. The library would map holes, which a full disk makes fatal."""
    with file.open("r+b") as opened:
        used = int.from_bytes(opened.read(4), byteorder)
        missing = used + size - opened.seek(0, os.SEEK_END)
        opened.write(bytes(max(missing, 0)))


def _replace_total(summed: Path) -> None:
    summed.with_suffix(".db").unlink(missing_ok=True)
    kind = summed.name.partition("_")[0]
    summed.replace(summed.with_name(f"{kind}_ended.db"))
