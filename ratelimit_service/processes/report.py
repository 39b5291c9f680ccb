"""What a child process tells its supervisor, and what it is told: two pipes, whose numbers are in its environment."""

import os
from collections.abc import Callable
from typing import Final, Protocol

REPORT_VARIABLE: Final = "RATELIMIT_REPORT_FD"
LEAVE_VARIABLE: Final = "RATELIMIT_LEAVE_FD"

READY: Final = "ready"
_FAULT: Final = "fault "


class Loop(Protocol):
    """What is used of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...  # noqa: D102
    def remove_reader(self, fd: int, /) -> object: ...  # noqa: D102


class Report:
    """A child's side of the pipes."""

    def __init__(self) -> None:
        self._report = int(os.environ[REPORT_VARIABLE])
        self._leave = int(os.environ[LEAVE_VARIABLE])

    def ready(self) -> None:
        """Say that this process serves."""
        os.write(self._report, f"{READY}\n".encode())

    def fault(self, words: str) -> None:
        """Say why this process cannot start."""
        os.write(self._report, f"{_FAULT}{' '.join(words.split())}\n".encode())

    def on_leave(self, loop: Loop, callback: Callable[[], object]) -> None:
        """Call CALLBACK once, when the supervisor says that callers are to be sent elsewhere."""

        def told() -> None:
            loop.remove_reader(self._leave)
            callback()

        loop.add_reader(self._leave, told)


def fault_in(line: str) -> str | None:
    """The words of a fault that was reported, or None if LINE reports something else."""
    return line.removeprefix(_FAULT).strip() if line.startswith(_FAULT) else None
