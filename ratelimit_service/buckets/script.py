"""The charge script, assembled from its parts."""

from hashlib import sha1
from importlib.resources import files

_LUA = files(__package__) / "lua"
# A script without flags is one that writes: a replica, and a server out of memory, refuse it before it begins.
_SHEBANG = "#!lua\n"


class Script:
    """A Lua script and the SHA-1 by which the store knows it."""

    def __init__(self, *parts: str) -> None:
        self.text = (_SHEBANG + "\n".join(parts)).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


def part(name: str) -> str:
    """The part of this name, `lua/<name>.lua`."""
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


def charge_script(*, clock: str | None = None, state: str | None = None) -> Script:
    """The script that makes a batch of charges.

    CLOCK is Lua that sets a local `now` in microseconds since 1970 UTC; None takes the store's own clock, the only one
    that decisions may go by. STATE is Lua that reads and writes buckets; None takes `lua/state.lua`. Tests and
    benchmarks give others.
    """
    return Script(clock or part("clock"), part("windows"), state or part("state"), part("charge"))
