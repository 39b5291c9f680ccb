"""Calls to the Unix socket by which one server of this machine turns its own switch."""

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ratelimit_service.cli.errors import CommandError, Exit

_SOCKETS: Final = "ratelimit-*/enforcement.sock"
_TIMEOUT_SECONDS: Final = 3.0
_MAX_ANSWER: Final = 65_536


def ask_switch(path: str, question: dict[str, Any]) -> dict[str, Any]:
    """What the server answers whose socket is PATH; if that is empty, the only server of this user and machine.

    Raises CommandError, also if it refuses.
    """
    if not path:
        path = str(_only_socket())
    answer = _ask(Path(path), question)
    if answer is None:
        raise CommandError(Exit.FAILED, f"no server answers at {path}")
    if "error" in answer:
        raise CommandError.usage(str(answer["error"]))
    return answer


def _only_socket() -> Path:
    found = [(path, answer) for path in _sockets() if (answer := _ask(path, {"action": "status"})) is not None]
    if not found:
        raise CommandError(
            Exit.FAILED,
            f"no server of this user answers at {tempfile.gettempdir()}/{_SOCKETS}",
            "run it as the server's user, with its TMPDIR, or name its socket by --socket: its log has the path",
        )
    if len(found) > 1:
        lines = [f"--socket {path}  serves on {answer.get('listen', '')}" for path, answer in found]
        raise CommandError(Exit.USAGE, "there are several servers on this machine; choose one:", *lines)
    return found[0][0]


def _sockets() -> Iterator[Path]:
    """The sockets of servers that this user has started: in this folder anybody may put one, and answer what they like.

    Root is asked for those of all users.
    """
    user = os.geteuid()
    for path in sorted(Path(tempfile.gettempdir()).glob(_SOCKETS)):
        with suppress(OSError):
            if user in {0, path.parent.lstat().st_uid}:
                yield path


def _ask(path: Path, question: dict[str, Any]) -> dict[str, Any] | None:
    """The answer. None if there is none: of a server that is gone the socket may be left."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(_MAX_ANSWER))
    except (OSError, ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
