"""`ratelimit-service diff`: how the configuration of a server differs from files."""

from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import unified_diff
from typing import Annotated, Final

import typer

from ratelimit_service.cli.client import connect
from ratelimit_service.cli.configuration.changes import Change, compare
from ratelimit_service.cli.configuration.documents import read_configuration
from ratelimit_service.cli.configuration.item import Item
from ratelimit_service.cli.configuration.options import Files
from ratelimit_service.cli.configuration.server import read_server
from ratelimit_service.cli.errors import Exit
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.cli.options import Server, Token
from ratelimit_service.cli.output import coloured
from ratelimit_service.cli.yaml_text import yaml_text

_COLOURS: Final = {"+": typer.colors.GREEN, "-": typer.colors.RED, "@": typer.colors.CYAN}


def diff(
    *,
    file: Files,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also show what is in no file, which `apply --prune` would remove.")
    ] = False,
    server: Server = None,
    token: Token = None,
) -> None:
    """Show how the configuration on the server differs from files. Exits with 1 if it does, 0 if not. Changes nothing.

    What `apply` would add has a +, what it would take away a -. Needs role viewer.
    """
    with connect(server, token) as client:
        found = compare(read_configuration(file), read_server(client), datetime.now(UTC))
    for note in (*found.notes, *(found.unpruned if prune else ())):
        typer.echo(escaped(note), err=True)
    different = [*found.changes, *(found.only_there if prune else ())]
    for change in different:
        for line in difference(change):
            typer.echo(coloured(escaped(line), _COLOURS.get(line[:1], typer.colors.RESET)))
    if different:
        raise typer.Exit(Exit.NO)


def difference(change: Change) -> Iterator[str]:
    """The lines of a unified difference from the server to the files."""
    old, new = (_lines(item) for item in (change.old, change.new))
    of_file = f"{change.name} ({change.new.place})" if change.new else "nothing in the files"
    of_server = f"{change.name} on the server" if change.old else "nothing on the server"
    yield from unified_diff(old, new, of_server, of_file, lineterm="")


def _lines(item: Item | None) -> list[str]:
    return yaml_text(item.document).splitlines() if item else []
