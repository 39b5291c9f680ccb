"""`ratelimit-service admin-tokens ...`: who may call. Straight to Postgres, since a first token opens the server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer

from ratelimit_service.cli.app import command_group
from ratelimit_service.cli.configured import database_faults, load_settings, open_transactions, with_dev_stores
from ratelimit_service.cli.fault import report_faults
from ratelimit_service.cli.keys import print_secret
from ratelimit_service.cli.options import AsJson
from ratelimit_service.cli.output import print_table
from ratelimit_service.clock import SystemClock
from ratelimit_service.management.tokens import Role, StoredToken, TokenService

app = command_group("Make and revoke the tokens that callers show. Needs RATELIMIT_DATABASE_URL; no server has to run.")

T = TypeVar("T")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is; audit events name it.")]


@app.command()
def create(
    name: Name,
    *,
    role: Annotated[
        Role,
        typer.Option(
            help="viewer may read, admin may read and change, gateway may have calls decided and send key_id."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a token. It is printed now and never again."""
    token = _with_tokens(lambda tokens: tokens.create(name, role))
    if as_json:
        typer.echo(json.dumps({"name": name, "role": role.value, "token": token}))
    else:
        print_secret(f"Token {name} of role {role.value}", token)


@app.command("list")
def list_tokens(*, as_json: AsJson = False) -> None:
    """List the tokens in the order of their names, without their secrets."""
    tokens = _with_tokens(lambda tokens: tokens.list())
    if as_json:
        typer.echo(json.dumps([_record(token) for token in tokens], indent=2))
    else:
        print_table(("NAME", "ROLE", "CREATED", "REVOKED"), (tuple(_record(token).values()) for token in tokens))


@app.command()
def revoke(name: Name) -> None:
    """End a token. Servers refuse it within a second."""
    _with_tokens(lambda tokens: tokens.revoke(name))
    typer.echo(f"token {name} is revoked")


def _with_tokens(action: Callable[[TokenService], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_transactions(with_dev_stores(load_settings())) as transactions:
            return await action(TokenService(transactions, SystemClock()))

    with report_faults(), database_faults():
        return asyncio.run(run())


def _record(token: StoredToken) -> dict[str, str]:
    return {
        "name": token.name,
        "role": token.role.value,
        "created": _time(token.created_us),
        "revoked": "" if token.revoked_us is None else _time(token.revoked_us),
    }


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
