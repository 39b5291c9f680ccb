"""Changes that the server makes only when they are confirmed: by whoever sits at the terminal, or by --yes."""

import sys
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

import typer

from ratelimit_service.cli.errors import CommandError, ConfirmationNeeded, Exit
from ratelimit_service.cli.escaped import escaped

Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Confirm a change that cuts or lifts limits, or touches many keys.")
]
_Response = TypeVar("_Response")


def confirmed(call: Callable[[str], _Response], *, yes: bool) -> _Response:
    """What CALL returns, which gets a confirmation, at first an empty one.

    If the server needs one, what the change would do is shown, and whoever sits at the terminal is asked, unless YES.
    Raises CommandError if it is not confirmed, and nothing was changed.
    """
    try:
        return call("")
    except ConfirmationNeeded as needed:
        confirm(["This change has to be confirmed:", *needed.lines], "Make this change?", yes=yes)
        return call(needed.confirmation)


def confirm(lines: Iterable[str], question: str, *, yes: bool) -> None:
    """Show LINES, and ask QUESTION of whoever sits at the terminal, unless YES. Raises CommandError for a no."""
    for line in lines:
        typer.echo(escaped(line), err=True)
    if not yes and not sys.stdin.isatty():
        raise CommandError(Exit.REFUSED, "nothing was changed; repeat it with --yes to confirm it")
    if not yes and not typer.confirm(question, err=True):
        raise CommandError(Exit.REFUSED, "nothing was changed")
