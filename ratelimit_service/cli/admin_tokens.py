"""`ratelimit-service admin-tokens ...`: the callers' tokens. Uses Postgres directly: a server needs a first one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.database import database_errors, open_transactions
from ratelimit_service.cli.environment import load_settings, with_dev_stores
from ratelimit_service.cli.errors import report_errors
from ratelimit_service.cli.options import AsJson, DryRun, Output, output_format
from ratelimit_service.cli.output import Format, print_secret, print_table
from ratelimit_service.cli.times import format_time
from ratelimit_service.cli.yaml_text import yaml_text
from ratelimit_service.clock import SystemClock
from ratelimit_service.decision.limit import MICRO
from ratelimit_service.management.tokens import Role, StoredToken, TokenService

app = command_group("Create and revoke the tokens that callers send. Needs RATELIMIT_DATABASE_URL; no running server.")

T = TypeVar("T")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The token's holder, as audit events name it.")]


@app.command()
def create(
    name: Name,
    *,
    role: Annotated[
        Role,
        typer.Option(help="viewer may read, admin may read and change, gateway may request decisions and send key_id."),
    ],
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Create a token. It is printed now and never again."""
    if dry_run:
        _with_tokens(lambda tokens: tokens.rehearsal().create(name, role))
        typer.echo(f"dry run: token {name} of role {role.value} would be created; nothing was changed", err=True)
        return
    token = _with_tokens(lambda tokens: tokens.create(name, role))
    if as_json:
        typer.echo(json.dumps({"name": name, "role": role.value, "token": token}))
    else:
        print_secret(f"Token {name} of role {role.value}", token)


@app.command("list")
def list_tokens(*, output: Output = Format.TABLE, as_json: AsJson = False) -> None:
    """List the tokens by name, without their secrets."""
    with report_errors():
        chosen = output_format(output, as_json=as_json)
    records = [_record(token) for token in _with_tokens(lambda tokens: tokens.list())]
    if chosen is Format.JSON:
        typer.echo(json.dumps(records, indent=2))
    elif chosen is Format.YAML:
        typer.echo(yaml_text(records), nl=False)
    else:
        print_table(("NAME", "ROLE", "CREATED", "REVOKED"), (tuple(record.values()) for record in records))


@app.command()
def revoke(name: Name, *, dry_run: DryRun = False) -> None:
    """Revoke a token. Servers refuse it within a second."""
    if dry_run:
        _with_tokens(lambda tokens: tokens.rehearsal().revoke(name))
        typer.echo(f"dry run: token {name} would be revoked; nothing was changed", err=True)
        return
    _with_tokens(lambda tokens: tokens.revoke(name))
    typer.echo(f"token {name} is revoked")


def _with_tokens(action: Callable[[TokenService], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_transactions(with_dev_stores(load_settings())) as transactions:
            return await action(TokenService(transactions, SystemClock()))

    with report_errors(), database_errors():
        return asyncio.run(run())


def _record(token: StoredToken) -> dict[str, str]:
    created, revoked = (Timestamp(seconds=(us or 0) // MICRO) for us in (token.created_us, token.revoked_us))
    return {
        "name": token.name,
        "role": token.role.value,
        "created": format_time(created),
        "revoked": format_time(revoked),
    }
