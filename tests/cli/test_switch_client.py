"""Which sockets the command line asks when none is named: those of servers of its own user."""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.switch_client import ask_switch

ANSWER = {"listen": "127.0.0.1:1", "off": True, "off_until_us": 1, "changed_us": 1, "actor": "x", "comment": ""}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A socket where servers have theirs, which answers every question."""
    with tempfile.TemporaryDirectory() as folder:  # short enough for the path of a socket
        monkeypatch.setattr(tempfile, "tempdir", folder)
        path = Path(folder) / "ratelimit-x" / "enforcement.sock"
        path.parent.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            threading.Thread(target=answer, args=(listening,), daemon=True).start()
            yield path
            listening.shutdown(socket.SHUT_RDWR)


def answer(listening: socket.socket) -> None:
    """Answer until the socket is closed."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(4096)
            connection.sendall(json.dumps(ANSWER).encode() + b"\n")


def test_only_servers_of_this_user_are_asked(answering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may put a socket into the folder: that of another user is not asked, so that no one else says `off`."""
    assert ask_switch("", {"action": "status"})["off"]
    owner = answering.parent.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(CommandError) as error:
        ask_switch("", {"action": "status"})
    assert "no server of this user answers" in error.value.lines[0]
