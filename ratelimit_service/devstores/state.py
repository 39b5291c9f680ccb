"""What `dev` keeps in its data folder between runs: the lock, the peppers, and dev.json."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Self

from ratelimit_service.devstores.private_files import read_private, write_private

_LOCK_FILE = "dev.lock"


class DevLock:
    """Held until the block or the process ends; the kernel releases it when the process dies."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _LOCK_FILE
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock. Raises ValueError, with the process that holds it, if another process does."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 20).decode().strip()
            os.close(self._file)
            raise ValueError(
                f"`ratelimit-service dev` already runs on {self._path.parent} (process {holder}); stop it, "
                "or set another folder with RATELIMIT_DATA_DIR and another port with RATELIMIT_LISTEN"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        os.close(self._file)


_PEPPERS_FILE = "peppers"


def read_peppers(data_dir: Path) -> str:
    """The peppers kept in the folder, empty if there are none yet.

    Raises ValueError if the file or its folder is not this user's alone, as `read_private` has it.
    """
    return (read_private(data_dir / _PEPPERS_FILE) or "").strip()


def ensure_peppers(data_dir: Path) -> str:
    """The peppers kept in the folder, generated if there are none yet. If they are lost, existing keys become invalid.

    Raises ValueError if they cannot be read or are damaged.
    """
    from ratelimit_service.decision.api_key import Peppers  # noqa: PLC0415  commands read dev.json, and no peppers

    peppers = read_peppers(data_dir)
    if not peppers:
        peppers = Peppers.generate()
        write_private(data_dir / _PEPPERS_FILE, peppers + "\n")
    try:
        Peppers.parse(peppers)
    except ValueError as error:
        raise ValueError(f"{data_dir / _PEPPERS_FILE} is damaged: {error}") from None
    return peppers


_STATE_FILE = "dev.json"


@dataclass(frozen=True, slots=True)
class DevState:
    """The address of a development server and its credentials. Kept when it stops, for its next start."""

    listen: str
    api_key: str = field(repr=False)
    admin_token: str = field(repr=False)
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    admin_listen: str = ""
    """The address of the admin methods, if they have one of their own."""

    console: str = ""
    """The address of the console for a browser, empty if there is none."""

    @property
    def admin_address(self) -> str:
        """Where the admin methods are served."""
        return self.admin_listen or self.listen

    @staticmethod
    def path(data_dir: Path) -> Path:
        """The file in the folder."""
        return data_dir / _STATE_FILE

    @classmethod
    def read(cls, data_dir: Path) -> "DevState | None":
        """What was written last, None if nothing was.

        Raises ValueError if the file is damaged, or it or its folder is not this user's alone, as `read_private` has
        it: whoever wrote it chooses where tokens are sent.
        """
        path = cls.path(data_dir)
        text = read_private(path)
        if text is None:
            return None
        try:
            fields_read = {"admin_listen": "", "console": "", **json.loads(text)}  # earlier versions had none
            return cls(**{each.name: str(fields_read[each.name]) for each in fields(cls)})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path} is damaged; remove it, and `ratelimit-service dev` writes a new one") from None

    def write(self, data_dir: Path) -> None:
        """Replace the file atomically, so that no reader sees half of it. Only the owner may read it."""
        write_private(data_dir / _STATE_FILE, json.dumps(asdict(self), indent=2) + "\n")
