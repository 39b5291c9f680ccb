"""The peppers of a development server, in a file that only its owner may read."""

import os
from pathlib import Path

from ratelimit_service.decision.secrets import Peppers

_FILE = "peppers"


def read_peppers(data_dir: Path) -> str:
    """The peppers kept in the folder, empty if there are none yet. Raises ValueError if they are another user's."""
    path = data_dir / _FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
    except PermissionError:
        raise ValueError(f"{path} belongs to another user") from None


def ensure_peppers(data_dir: Path) -> str:
    """The peppers kept in the folder, made if there are none yet. Without them no key that was made is good any more.

    Raises ValueError if they cannot be read or were damaged.
    """
    peppers = read_peppers(data_dir)
    if not peppers:
        peppers = Peppers.generate()
        new = data_dir / f"{_FILE}.{os.getpid()}.new"
        new.touch(mode=0o600)
        new.write_text(peppers + "\n")
        new.replace(data_dir / _FILE)
    try:
        Peppers.parse(peppers)
    except ValueError as error:
        raise ValueError(f"{data_dir / _FILE} is damaged: {error}") from None
    return peppers
