"""What the exit code of a command means. The README lists them for scripts."""

from enum import IntEnum


class Exit(IntEnum):
    """0 means done, and for `check` allowed."""

    NO = 1
    """`check`: denied. `doctor`: something is wrong. Everything worked."""
    USAGE = 2
    """The command line, a file or a setting is wrong; also what the server calls INVALID_ARGUMENT."""
    REFUSED = 3
    """The server said no: the token, no such thing, a conflict."""
    FAILED = 4
    """The server or a store could not be reached, or failed. Trying again may help."""
