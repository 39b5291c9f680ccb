"""`ratelimit-service apply`: make the configuration of a server what files describe."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from ratelimit_service.cli.client import connect
from ratelimit_service.cli.configuration.changes import Change, Comparison, check_removed_plans, compare
from ratelimit_service.cli.configuration.documents import read_configuration
from ratelimit_service.cli.configuration.item import Kind, target_of
from ratelimit_service.cli.configuration.make import make
from ratelimit_service.cli.configuration.options import Files
from ratelimit_service.cli.configuration.server import Configured, read_server
from ratelimit_service.cli.confirm import Yes, confirm
from ratelimit_service.cli.errors import ConfirmationNeeded, report_errors
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import DryRun, Server, Token
from ratelimit_service.cli.steps import ASK, effects, make_all, rehearse


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
        check_removed_plans(changes, there)
        needed = rehearse(client, _checkable(changes), make)
        if dry_run:
            _show(changes, needed)
            return
        _confirm(found, needed, prune=prune, yes=yes)
        unused = _unused(changes, there)
        make_all(
            client,
            changes,
            make,
            needed,
            yes=lambda change: yes or _of_override(change) in unused,
            made=lambda change, _: typer.echo(escaped(change.line) + _advice(change)),
        )
    typer.echo(f"changes made: {len(changes):,}; documents that were as on the server already: {found.same:,}")


def _checkable(changes: Sequence[Change]) -> list[Change]:
    """The changes that the server can check before any is made.

    Left out is what needs something that another change creates, and a plan that is removed once others have moved or
    revoked its keys. A key can always be revoked.
    """
    created = {change.name for change in changes if change.old is None}
    left = {f"plans/{change.old.key.plan}" for change in changes if change.old and change.old.kind is Kind.KEY}
    return [
        change
        for change in changes
        if not _needs(change) & created
        and not (change.new is None and (change.item.kind is Kind.KEY or change.name in left))
    ]


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
    lines = effects(needed)
    if prune and found.only_there:
        lines += ["These are removed, since they are in no file (keys are revoked, permanently):"]
        lines += [f"  {change.name}" for change in found.only_there]
    if lines:
        confirm(lines, ASK, yes=yes)


def _unused(changes: Sequence[Change], there: Configured) -> frozenset[str]:
    """The keys that CHANGES create, and the subjects that have no others: nobody has a secret of them yet."""
    keys = [change.item.key for change in changes if change.old is None and change.item.kind is Kind.KEY]
    others = {item.key.subject for item in there.items.values() if item.kind is Kind.KEY}
    return frozenset(f"keys/{key.key_id}" for key in keys) | {
        f"subjects/{key.subject}" for key in keys if key.subject not in others
    }


def _of_override(change: Change) -> str:
    """What the override of a change is set for, empty for a change of another kind."""
    return target_of(change.item.set_for) if change.item.kind is Kind.OVERRIDE else ""


def _advice(change: Change) -> str:
    if change.item.kind is not Kind.KEY or change.old is not None:
        return ""
    return f" (without a secret: `ratelimit-service keys rotate {change.item.key.key_id}` makes one)"
