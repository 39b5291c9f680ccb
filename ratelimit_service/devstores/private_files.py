"""Files with secrets, which belong to this user alone: read only if they do, written so that they do."""

import os
import stat
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 65_536
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_private(path: Path) -> str | None:
    """The text of a file of at most 64 KiB, None if there is none.

    Whoever can write it, or its folder, chooses what is in it. So it must be a regular file of this user, with mode
    0600 and no link, in a folder of this user that nobody else can write to. Raises ValueError, which says what to do,
    for any other, and OSError if it cannot be read.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        file = _open(path, folder)
        if file is None:
            return None
        try:
            _check_folder(path.parent, os.fstat(folder))
            _check_file(path, os.fstat(file))
            content = os.read(file, _MAX_BYTES + 1)
        finally:
            os.close(file)
    finally:
        os.close(folder)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{path} has more than {_MAX_BYTES:,} bytes; remove it")
    return content.decode()


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, so that no reader sees half of it. Only this user may read it. Raises OSError."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(file, "w", encoding="utf-8") as opened:  # noqa: PTH123  it is open already
        opened.write(text)
    new.replace(path)


def make_private_folder(path: Path) -> None:
    """Make a folder, with those above it, and let nobody else write to it.

    Raises ValueError, which says what to do, if it belongs to another user, and OSError.
    """
    path.mkdir(parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise ValueError(f"{path} belongs to another user; choose another folder with RATELIMIT_DATA_DIR")
    if status.st_mode & _OTHERS_WRITE:
        path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)


def _open(path: Path, folder: int) -> int | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait for a writer
    try:
        return os.open(path.name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise ValueError(f"{path} belongs to another user") from None
    except OSError:
        if path.is_symlink():
            raise ValueError(f"{path} is a link, which is not followed; remove it") from None
        raise


def _check_folder(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ValueError(f"{path} belongs to another user; its files are not trusted")
    if status.st_mode & _OTHERS_WRITE:
        raise ValueError(f"others can write to {path}; its files are not trusted: chmod go-w {path}")


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file; remove it")
    if status.st_uid != os.geteuid():
        raise ValueError(f"{path} belongs to another user; it is not trusted")
    if status.st_mode & _OTHERS:
        raise ValueError(f"others can use {path}, mode {stat.S_IMODE(status.st_mode):04o}: chmod 600 {path}")
