"""The Unix socket by which this server's own switch is turned: without a network, a token, or Postgres.

One line of JSON is asked, such as `{"action": "off", "duration_us": 1800000000}`, and one answered. Who may open the
socket, which only its user can, may turn the switch.
"""

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.enforcement import Switch
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.enforcement import check_duration
from ratelimit_service.management.text import check_description
from ratelimit_service.own_switch import read_switch, write_switch

SOCKET_NAME: Final = "enforcement.sock"
"""The name of the socket in the server's folder."""

_MAX_LINE: Final = 4_096
_PATIENCE_SECONDS: Final = 2.0
_PEER: Final = struct.Struct("3i")

_log = structlog.stdlib.get_logger(__name__)


class SwitchSocket:
    """Answers those who turn the switch of one server."""

    def __init__(self, file: Path, listen: str) -> None:
        """FILE has the switch. LISTEN is the address that the server serves on."""
        self._file = file
        self._listen = listen
        self._clock = SystemClock()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one question, and close the connection."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                line = await reader.readline()
                writer.write(json.dumps(self._answer(line, _actor(writer))).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # TimeoutError is an OSError; ValueError: the line is too long
            pass
        finally:
            writer.close()

    def _answer(self, line: bytes, actor: str) -> dict[str, Any]:
        try:
            question = json.loads(line)
            action = question["action"]
            if action == "off":
                self._turn_off(question, actor)
            elif action == "on":
                self._put(Switch(0, self._clock.now_us(), actor))
            elif action != "status":
                return {"error": f"there is no action {str(action)[:40]!r}; use off, on or status"}
        except InvalidArgument as error:
            return {"error": error.message}
        except (ValueError, KeyError, TypeError):
            return {"error": 'is no question; send a line such as {"action": "status"}'}
        except OSError as error:
            return {"error": f"the switch cannot be stored: {error.strerror}"}
        now_us = self._clock.now_us()
        switch = read_switch(self._file).at(now_us)
        return {"listen": self._listen, "off": switch.is_off(now_us), **switch._asdict()}

    def _turn_off(self, question: dict[str, Any], actor: str) -> None:
        duration_us, comment = int(question["duration_us"]), str(question.get("comment", ""))
        check_duration(duration_us)
        check_description(comment)
        now_us = self._clock.now_us()
        self._put(Switch(now_us + duration_us, now_us, actor, comment))

    def _put(self, switch: Switch) -> None:
        write_switch(self._file, switch)
        if switch.off_until_us:
            _log.warning("enforcement of this server was turned off", by=switch.actor, off_until_us=switch.off_until_us)
        else:
            _log.warning("enforcement of this server was turned on", by=switch.actor)


@asynccontextmanager
async def open_switch(folder: Path, file: Path, listen: str) -> AsyncIterator[Path]:
    """Listen in FOLDER, that of the server, and close and remove the socket at the end. Raises OSError."""
    path = folder / SOCKET_NAME
    answers = SwitchSocket(file, listen)
    mask = os.umask(0o177)  # the socket is made with mode 0600, and never has another
    try:
        server = await asyncio.start_unix_server(answers.answer, path, limit=_MAX_LINE)
    finally:
        os.umask(mask)
    try:
        yield path
    finally:
        server.close()
        path.unlink(missing_ok=True)


def _actor(writer: asyncio.StreamWriter) -> str:
    """Who asks, as the kernel says."""
    connection = writer.get_extra_info("socket")
    if sys.platform != "linux":
        return "local"
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return f"local user {user}"
