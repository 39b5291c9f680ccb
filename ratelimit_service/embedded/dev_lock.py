"""One `dev` at a time on one data folder."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

_FILE = "dev.lock"


class DevLock:
    """Held for as long as the process lives or the block lasts; the system lets go of it when the process dies."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock. Raises ValueError, with the process that holds it, if somebody else has it."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 20).decode().strip()
            os.close(self._file)
            raise ValueError(
                f"`ratelimit-service dev` already runs on {self._path.parent} (process {holder}); stop that one, "
                "or name another folder with RATELIMIT_DATA_DIR and another port with RATELIMIT_LISTEN"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        os.close(self._file)
