"""The command `ratelimit-service`: which commands there are, and the last net under all of them."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ratelimit_service.cli.command_group import LazyGroup
from ratelimit_service.cli.exits import Exit
from ratelimit_service.logs import redact

_HERE = "ratelimit_service.cli"


class Commands(LazyGroup):
    """All commands and groups."""

    places = {  # noqa: RUF012  declared as ClassVar above
        "dev": f"{_HERE}.dev:dev",
        "serve": f"{_HERE}.serve:serve",
        "migrate": f"{_HERE}.migrate:migrate",
        "doctor": f"{_HERE}.doctor:doctor",
        "check": f"{_HERE}.check:check",
        "explain": f"{_HERE}.check:explain",
        "keys": f"{_HERE}.keys:app",
        "plans": f"{_HERE}.plans:app",
        "overrides": f"{_HERE}.overrides:app",
        "rules": f"{_HERE}.rules:app",
        "audit": f"{_HERE}.audit:app",
        "admin-tokens": f"{_HERE}.admin_tokens:app",
    }


app = typer.Typer(
    name="ratelimit-service",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or allowed; 1 denied (check), something is wrong (doctor); 2 a wrong command line, file "
    "or setting; 3 the server refused; 4 the server or a store failed or could not be reached.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        typer.echo(f"ratelimit-service {version('ratelimit-service')}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The rate-limit decision service: run it, ask it, and manage its keys and plans."""


def main() -> None:
    """Run the command line. A fault of ours is told in a line; RATELIMIT_TRACEBACK=1 shows where it is."""
    try:
        app()
    except Exception as error:
        if os.environ.get("RATELIMIT_TRACEBACK"):
            raise
        typer.echo(
            f"ratelimit-service is at fault: {type(error).__name__}: {redact(str(error))}\n"
            "please report it; RATELIMIT_TRACEBACK=1 shows where it happened",
            err=True,
        )
        sys.exit(Exit.FAILED)
