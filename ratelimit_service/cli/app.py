"""The entry point `ratelimit-service`: its commands, and how an unexpected exception is reported."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from ratelimit_service.cli.errors import Exit
from ratelimit_service.logs import redact


def command_group(summary: str) -> typer.Typer:
    """An empty group of commands."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=summary)


_HERE = "ratelimit_service.cli"


class Commands(TyperGroup):
    """All commands and groups. A command's module is imported only when the command is called."""

    modules: ClassVar[Mapping[str, str]] = {
        "dev": f"{_HERE}.dev:dev",
        "serve": f"{_HERE}.serve:serve",
        "migrate": f"{_HERE}.migrate:migrate",
        "demo": f"{_HERE}.demo:demo",
        "doctor": f"{_HERE}.doctor.command:doctor",
        "check": f"{_HERE}.check:check",
        "settle": f"{_HERE}.reservations:settle",
        "extend": f"{_HERE}.reservations:extend",
        "explain": f"{_HERE}.check:explain",
        "keys": f"{_HERE}.keys:app",
        "plans": f"{_HERE}.plans:app",
        "overrides": f"{_HERE}.overrides:app",
        "rules": f"{_HERE}.rules:app",
        "enforcement": f"{_HERE}.enforcement:app",
        "usage": f"{_HERE}.usage:usage",
        "alerts": f"{_HERE}.alerts:app",
        "audit": f"{_HERE}.audit:app",
        "admin-tokens": f"{_HERE}.admin_tokens:app",
    }
    """Where each command is defined: `module:app`, a group, or `module:function`, a single command."""

    def list_commands(self, ctx: object) -> list[str]:
        """The names, in the order in which help shows them."""
        del ctx
        return list(self.modules)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ANN401  the type is in a private module of typer
        """Import a command. None if there is no command of this name."""
        del ctx
        if cmd_name not in self.modules:
            return None
        module, _, attribute = self.modules[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        single = command_group("")
        single.command(cmd_name)(found)
        return typer.main.get_command(single)


app = typer.Typer(
    name="ratelimit-service",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or allowed; 1 denied (check), something is wrong (doctor); 2 invalid command line, "
    "file or setting; 3 the server refused; 4 the server or a store failed or could not be reached.",
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
    """The rate-limit decision service: run it, query it, and manage its keys and plans."""


def main() -> None:
    """Run the command line. An internal error is reported in two lines; RATELIMIT_TRACEBACK=1 shows its traceback."""
    try:
        app()
    except Exception as error:
        if os.environ.get("RATELIMIT_TRACEBACK"):
            raise
        typer.echo(
            f"internal error: {type(error).__name__}: {redact(str(error))}\n"
            "please report it; RATELIMIT_TRACEBACK=1 shows the traceback",
            err=True,
        )
        sys.exit(Exit.FAILED)
