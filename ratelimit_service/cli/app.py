"""The command `ratelimit-service`: which commands there are, and the last net under all of them."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from ratelimit_service.cli import admin_tokens, audit, check, dev, doctor, keys, migrate, overrides, plans, serve
from ratelimit_service.cli.exits import Exit
from ratelimit_service.logs import redact

app = typer.Typer(
    name="ratelimit-service",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done or allowed; 1 denied (check), something is wrong (doctor); 2 a wrong command line, file "
    "or setting; 3 the server refused; 4 the server or a store failed or could not be reached.",
)

for command in (dev.dev, serve.serve, migrate.migrate, doctor.doctor, check.check, check.explain):
    app.command()(command)
app.add_typer(keys.app, name="keys")
app.add_typer(plans.app, name="plans")
app.add_typer(overrides.app, name="overrides")
app.add_typer(audit.app, name="audit")
app.add_typer(admin_tokens.app, name="admin-tokens")


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
