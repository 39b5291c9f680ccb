"""`ratelimit-service apply`: make the configuration of a server what files describe."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from ratelimit_service.cli.client import Client, connect
from ratelimit_service.cli.configuration.changes import Change, Comparison, compare
from ratelimit_service.cli.configuration.documents import read_configuration
from ratelimit_service.cli.configuration.item import Kind, target_of
from ratelimit_service.cli.configuration.make import make
from ratelimit_service.cli.configuration.options import Files
from ratelimit_service.cli.configuration.server import Configured, read_server
from ratelimit_service.cli.confirm import Yes, confirm
from ratelimit_service.cli.errors import CommandError, ConfirmationNeeded, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import DryRun, Server, Token

_ASK = "Make these changes?"


def apply(
    *,
    file: Files,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Also remove what is on the server and not in the files, of the kinds that the files have: keys are "
            "revoked, permanently. Has to be confirmed.",
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Make plans, rules, keys and overrides on the server as they are in files.

    Each document has a `kind`: Plan, Rules, Key or Override. It is complete: a field that is left out gets its default,
    but for the state of a key. Applied again, nothing is changed. A new key has no secret until `keys rotate`. All
    changes are checked by the server before the first is made, and those that have to be confirmed are listed.
    """
    with report_errors():
        wanted = read_configuration(file)
    with connect(server, token, dry_run=dry_run) as client:
        there = read_server(client)
        found = compare(wanted, there, datetime.now(UTC))
        for note in (*found.notes, *(found.unpruned if prune else ())):
            typer.echo(escaped(note), err=True)
        changes = [*found.changes, *(found.only_there if prune else ())]
        if not changes:
            typer.echo(f"nothing to change: all {found.same:,} documents are as on the server")
            return
        needed = _rehearse(client.rehearsal(), changes)
        if dry_run:
            _show(changes, needed)
            return
        _confirm(found, needed, prune=prune, yes=yes)
        _make_all(client, changes, needed, _unused(changes, there) if not yes else None)
    typer.echo(f"{len(changes):,} changes were made, {found.same:,} documents were as on the server already")


def _rehearse(rehearsal: Client, changes: Sequence[Change]) -> dict[str, ConfirmationNeeded]:
    """Have the server check the changes, and return those that have to be confirmed, by name. Nothing is changed.

    What needs something that another of the changes creates can only be checked when it is made.
    """
    created = {change.name for change in changes if change.old is None}
    needed: dict[str, ConfirmationNeeded] = {}
    for change in changes:
        if _needs(change) & created or (change.new is None and change.item.kind in {Kind.PLAN, Kind.KEY}):
            continue
        try:
            make(rehearsal, change, "")
        except ConfirmationNeeded as needs:
            needed[change.name] = needs
        except CommandError as error:
            where = f"{change.item.place}: " if change.item.place else ""
            raise CommandError(
                error.exit_code, f"{where}{change.name}: {error.lines[0]}", *error.lines[1:], "nothing was changed"
            ) from None
    return needed


def _needs(change: Change) -> set[str]:
    """The names of what a change refers to."""
    if change.item.kind is Kind.KEY:
        return {f"plans/{change.item.key.plan}"}
    return {target_of(change.item.set_for)} if change.item.kind is Kind.OVERRIDE else set()


def _show(changes: Sequence[Change], needed: Mapping[str, ConfirmationNeeded]) -> None:
    for change in changes:
        typer.echo(escaped(change.line))
        for line in needed[change.name].lines if change.name in needed else ():
            typer.echo(escaped(f"    has to be confirmed: {line}"))


def _confirm(found: Comparison, needed: Mapping[str, ConfirmationNeeded], *, prune: bool, yes: bool) -> None:
    """Show what has to be confirmed, all at once, and ask. Raises CommandError if it is not confirmed."""
    lines: list[str] = []
    if needed:
        lines += [
            "These changes have to be confirmed:",
            *(f"  {line}" for each in needed.values() for line in each.lines),
        ]
    if prune and found.only_there:
        lines += ["These are removed, since they are in no file (keys are revoked, permanently):"]
        lines += [f"  {change.name}" for change in found.only_there]
    if lines:
        confirm(lines, _ASK, yes=yes)


def _unused(changes: Sequence[Change], there: Configured) -> frozenset[str]:
    """The keys that CHANGES create, and the subjects that have no others: nobody has a secret of them yet."""
    keys = [change.item.key for change in changes if change.old is None and change.item.kind is Kind.KEY]
    others = {item.key.subject for item in there.items.values() if item.kind is Kind.KEY}
    return frozenset(f"keys/{key.key_id}" for key in keys) | {
        f"subjects/{key.subject}" for key in keys if key.subject not in others
    }


def _make_all(
    client: Client,
    changes: Sequence[Change],
    needed: Mapping[str, ConfirmationNeeded],
    unused: frozenset[str] | None,
) -> None:
    """Make the changes, and print each. Raises CommandError, which says what was not made.

    What has to be confirmed, and was not because that shows only now, is made for targets that are UNUSED, or for all
    if that is None.
    """
    for made, change in enumerate(changes):
        of_override = target_of(change.item.set_for) if change.item.kind is Kind.OVERRIDE else ""
        try:
            _make_confirmed(client, change, needed.get(change.name), yes=unused is None or of_override in unused)
        except CommandError as error:
            rest = [f"  {other.line}" for other in changes[made:]]
            lines = [f"{change.name}: {error.lines[0]}", *error.lines[1:]]
            raise CommandError(
                error.exit_code, *lines, f"{made:,} of {len(changes):,} changes were made, and these were not:", *rest
            ) from None
        typer.echo(escaped(change.line) + _advice(change))


def _make_confirmed(client: Client, change: Change, confirmed: ConfirmationNeeded | None, *, yes: bool) -> None:
    """Make a change by its confirmation, or by a new one: the first ends after minutes, or with an earlier change.

    A change that would do something else than what was confirmed is refused, unless YES.
    """
    try:
        make(client, change, confirmed.confirmation if confirmed else "")
    except ConfirmationNeeded as needed:
        if not yes and (confirmed is None or confirmed.effects != needed.effects):
            lines = ("has to be confirmed, by what the changes before it have done:", *needed.lines)
            raise CommandError(needed.exit_code, *lines, "apply again to confirm it") from None
        make(client, change, needed.confirmation)


def _advice(change: Change) -> str:
    if change.item.kind is not Kind.KEY or change.old is not None:
        return ""
    return f" (without a secret: `ratelimit-service keys rotate {change.item.key.key_id}` makes one)"
