"""Has no unit spent twice: by a process that was forked, and by its parent."""

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What has to begin anew in a child process."""

    def forked(self) -> None:
        """Forget what is the parent's."""
        ...


_all: "weakref.WeakSet[Forked]" = weakref.WeakSet()


def reset_when_forked(one: Forked) -> None:
    """Have ONE begin anew in each child process."""
    _all.add(one)


def _forked() -> None:
    for one in list(_all):
        one.forked()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(after_in_child=_forked)
