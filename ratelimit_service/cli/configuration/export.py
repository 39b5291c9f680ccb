"""`ratelimit-service export`: the configuration of a server as documents."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.cli.client import connect
from ratelimit_service.cli.configuration.item import Item, Kind
from ratelimit_service.cli.configuration.server import read_server
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.cli.options import Server, Token
from ratelimit_service.cli.unreadable_plans import report_unreadable
from ratelimit_service.cli.yaml_text import yaml_text

FILES: Final = {
    Kind.PLAN: "plans.yaml",
    Kind.RULES: "rules.yaml",
    Kind.KEY: "keys.yaml",
    Kind.OVERRIDE: "overrides.yaml",
}
"""The file of each kind in a folder."""


def export(
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write a file for each kind into this folder."),
    ] = None,
    server: Server = None,
    token: Token = None,
) -> None:
    """Print the configuration of the server as documents for `apply`. They have no secret.

    Revoked keys and overrides that have expired are left out, and so is the state of keys that are not suspended: to
    apply the files resumes none. A plan that cannot be read is exported without limits, so that `apply` refuses it, and
    the command exits with 1. Needs role viewer.
    """
    with connect(server, token) as client:
        items = list(read_server(client).items.values())
    if output is None:
        typer.echo(documents_text(items), nl=False)
    else:
        _write_files(output, items)
    if report_unreadable(item.plan for item in items if item.kind is Kind.PLAN):
        raise typer.Exit(Exit.NO)


def _write_files(output: Path, items: Sequence[Item]) -> None:
    with report_errors():
        try:
            output.mkdir(parents=True, exist_ok=True)
            for kind, name in FILES.items():
                (output / name).write_text(
                    documents_text(item for item in items if item.kind is kind), encoding="utf-8"
                )
        except OSError as error:
            raise CommandError.usage(f"cannot write {error.filename or output}: {error.strerror}") from None
    typer.echo(
        f"wrote {len(items):,} documents to {', '.join(str(output / name) for name in FILES.values())}", err=True
    )


def documents_text(items: Iterable[Item]) -> str:
    """Documents as YAML, each after a line `---`. Without any, a line that says so."""
    text = "".join(f"---\n{yaml_text(_exported(item))}" for item in items)
    return text or "# nothing of this kind\n"


def _exported(item: Item) -> dict[str, Any]:
    """The document of an item. Only a suspension is written as a state: ACTIVE would resume a key suspended later."""
    document = item.document
    if item.kind is Kind.KEY and item.key.state == Key.ACTIVE:
        del document["state"]
    return document
