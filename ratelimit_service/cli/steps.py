"""Several changes in one run: the server checks all of them before the first is made, and the first failure ends it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

from ratelimit_service.cli.client import Client
from ratelimit_service.cli.errors import CommandError, ConfirmationNeeded

ASK: Final = "Make these changes?"


class Step(Protocol):
    """One of the changes."""

    @property
    def name(self) -> str:
        """What changes, which no other step of the run does: `plans/free`."""
        ...

    @property
    def line(self) -> str:
        """The change in one line."""
        ...

    @property
    def place(self) -> str:
        """The file and line that asks for it, empty if none does."""
        ...


S = TypeVar("S", bound=Step)
R = TypeVar("R")
Call: TypeAlias = Callable[[Client, S, str], R]
"""Makes a step by a client, with a confirmation or an empty text. Raises ConfirmationNeeded and other CommandErrors."""


def rehearse(client: Client, steps: Sequence[S], call: Call[S, object]) -> dict[str, ConfirmationNeeded]:
    """Have the server check the steps, and return those that have to be confirmed, by name. Nothing is changed.

    Raises CommandError for the first step that is refused.
    """
    rehearsal = client.rehearsal()
    needed: dict[str, ConfirmationNeeded] = {}
    for step in steps:
        try:
            call(rehearsal, step, "")
        except ConfirmationNeeded as needs:
            needed[step.name] = needs
        except CommandError as error:
            where = f"{step.place}: " if step.place else ""
            raise CommandError(
                error.exit_code, f"{where}{step.name}: {error.lines[0]}", *error.lines[1:], "nothing was changed"
            ) from None
    return needed


def effects(needed: Mapping[str, ConfirmationNeeded]) -> list[str]:
    """The lines about what has to be confirmed; none if nothing has to be."""
    lines = [f"  {line}" for each in needed.values() for line in each.lines]
    return ["These changes have to be confirmed:", *lines] if lines else []


def make_all(
    client: Client,
    steps: Sequence[S],
    call: Call[S, R],
    needed: Mapping[str, ConfirmationNeeded],
    *,
    yes: Callable[[S], bool],
    made: Callable[[S, R], None],
) -> None:
    """Make the steps in their order, and call MADE after each. Raises CommandError, which says what was not made.

    NEEDED are those that were confirmed. What has to be confirmed and was not, because that shows only now, is made
    for steps of which YES says so.
    """
    for count, step in enumerate(steps):
        try:
            result = _make(client, step, call, needed.get(step.name), yes=yes(step))
        except CommandError as error:
            rest = [f"  {other.line}" for other in steps[count:]]
            lines = [f"{step.name}: {error.lines[0]}", *error.lines[1:]]
            raise CommandError(
                error.exit_code, *lines, f"{count:,} of {len(steps):,} changes were made, and these were not:", *rest
            ) from None
        made(step, result)


def _make(client: Client, step: S, call: Call[S, R], confirmed: ConfirmationNeeded | None, *, yes: bool) -> R:
    """Make a step by its confirmation, or by a new one: the first ends after minutes, or with an earlier change.

    A change that would do something else than what was confirmed is refused, unless YES.
    """
    try:
        return call(client, step, confirmed.confirmation if confirmed else "")
    except ConfirmationNeeded as needs:
        if not yes and (confirmed is None or confirmed.effects != needs.effects):
            lines = ("has to be confirmed, by what the changes before it have done:", *needs.lines)
            raise CommandError(needs.exit_code, *lines, "run it again to confirm it") from None
        return call(client, step, needs.confirmation)
