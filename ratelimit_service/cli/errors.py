"""How a command fails: an exit code, and a line or two on standard error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

import typer

from ratelimit_service.cli.escaped import escaped


class Exit(IntEnum):
    """0 means done, and for `check` allowed."""

    NO = 1
    """`check` and `test`: denied. `doctor`: something is wrong. `diff`: it differs. `export`: a plan cannot be
    read. The command itself worked."""
    USAGE = 2
    """The command line, a file or a setting is invalid; also what the server calls INVALID_ARGUMENT."""
    REFUSED = 3
    """The server refused: a bad token, not found, a conflict."""
    FAILED = 4
    """The server or a store could not be reached, or failed. Retrying may help."""


class CommandError(Exception):
    """Ends the command with this exit code and these lines on standard error."""

    def __init__(self, exit_code: Exit, *lines: str) -> None:
        super().__init__(*lines)
        self.exit_code = exit_code
        self.lines = lines

    @classmethod
    def usage(cls, line: str) -> "CommandError":
        """A value on the command line, in a file or in a setting is invalid."""
        return cls(Exit.USAGE, line)


class NotFound(CommandError):
    """The server has no such thing."""


class ConfirmationNeeded(CommandError):
    """The server makes the change once it is confirmed, by `confirmation`.

    The lines say what it would do: `effects`, and if that is known for how many of the calls so far.
    """

    def __init__(self, confirmation: str, effects: Sequence[str], usage: str) -> None:
        super().__init__(Exit.REFUSED, *effects, *filter(None, [usage]))
        self.confirmation = confirmation
        self.effects = effects


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn a CommandError into its lines on standard error and its exit code."""
    try:
        yield
    except CommandError as error:
        for line in error.lines:
            typer.echo(escaped(line), err=True)
        raise typer.Exit(error.exit_code) from None
