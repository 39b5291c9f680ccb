"""The entry point `ratelimit-service`: its commands, and how an unexpected exception is reported."""

import os
import sys
from collections import UserDict
from collections.abc import Mapping
from copy import copy
from importlib import import_module
from typing import Annotated, Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from ratelimit_service.cli.conversion import convert_lazily
from ratelimit_service.cli.errors import Exit
from ratelimit_service.cli.escaped import escaped
from ratelimit_service.importing import without_collector, without_rich


def command_group(summary: str) -> typer.Typer:
    """An empty group of commands."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=summary)


def _command(name: str, function: Any) -> Any:  # noqa: ANN401  typer's types are private
    """A command by itself."""
    single = command_group("")
    single.command(name)(function)
    return typer.main.get_command(single)


class _OnDemand(UserDict[str, Any]):
    """The commands of a group by name. One is made when it is asked for: typer takes a millisecond or more for each."""

    def __init__(self, group: typer.Typer, ctx: Any) -> None:  # noqa: ANN401  as above
        functions: list[tuple[str | None, Any]] = [(info.name, info.callback) for info in group.registered_commands]
        super().__init__({name or typer.main.get_command_name(one.__name__): one for name, one in functions})
        self._made: dict[str, Any] = {}
        self._ctx = ctx

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  as above
        if name not in self._made:
            self._made[name] = _command(name, super().__getitem__(name))
            convert_lazily(self._made[name], self._ctx)
        return self._made[name]


def _group(defined: typer.Typer, ctx: Any) -> Any:  # noqa: ANN401  as above
    """A group, with its commands made on demand."""
    empty = copy(defined)
    empty.registered_commands = []
    group = typer.main.get_group(empty)
    group.commands = _OnDemand(defined, ctx)
    return group


_HERE = "ratelimit_service.cli"


class Entry(NamedTuple):
    """Where a command is defined: `module:app`, a group, or `module:function`, a single command; and its summary.

    The summary is the first line of its own help, so that a list of commands imports none of them.
    """

    place: str
    summary: str


class Commands(TyperGroup):
    """All commands and groups. A command's module is imported only when the command is called."""

    entries: ClassVar[Mapping[str, Entry]] = {
        "dev": Entry(
            f"{_HERE}.dev:dev", "Start the service with its own PostgreSQL and Valkey, two plans and a demo key."
        ),
        "serve": Entry(f"{_HERE}.serve:serve", "Serve until SIGTERM."),
        "migrate": Entry(
            f"{_HERE}.migrate:migrate", "Migrate the database's schema to the revision that this program needs."
        ),
        "demo": Entry(
            f"{_HERE}.demo:demo",
            "Send calls of one key, few, then many, then few, and draw what is allowed and refused.",
        ),
        "doctor": Entry(
            f"{_HERE}.doctor.command:doctor",
            "Check settings, Postgres, its schema, Redis, peppers, ports and transport; report what is wrong and what "
            "to do.",
        ),
        "check": Entry(f"{_HERE}.check:check", "Decide one call and charge it."),
        "settle": Entry(f"{_HERE}.reservations:settle", "Settle a reservation at its actual cost."),
        "extend": Entry(f"{_HERE}.reservations:extend", "Hold a reservation for longer."),
        "explain": Entry(
            f"{_HERE}.check:explain",
            "Show every limit that a decision on this call would consider, and the level that set it.",
        ),
        "keys": Entry(f"{_HERE}.keys:app", "Create, change, suspend and revoke API keys."),
        "plans": Entry(f"{_HERE}.plans:app", "Create and change plans: named, versioned sets of limits."),
        "overrides": Entry(f"{_HERE}.overrides:app", "Limits for one subject or one key, in place of the plan's."),
        "rules": Entry(f"{_HERE}.rules:app", "Descriptor rules: the limits behind Envoy's rate limit protocol."),
        "apply": Entry(
            f"{_HERE}.configuration.apply:apply",
            "Make plans, rules, keys and overrides on the server as they are in files.",
        ),
        "diff": Entry(
            f"{_HERE}.configuration.diff:diff", "Show how the configuration on the server differs from files."
        ),
        "export": Entry(
            f"{_HERE}.configuration.export:export", "Print the configuration of the server as documents for `apply`."
        ),
        "enforcement": Entry(
            f"{_HERE}.enforcement:app", "Have no limit refuse a call for a while, when limits do harm."
        ),
        "usage": Entry(f"{_HERE}.usage:usage", "Show how many calls were counted, and how they were decided."),
        "alerts": Entry(f"{_HERE}.alerts:app", "What is wrong, and whether the webhook was notified."),
        "audit": Entry(f"{_HERE}.audit:app", "Who changed what."),
        "admin-tokens": Entry(f"{_HERE}.admin_tokens:app", "Create and revoke the tokens that callers send."),
    }

    def list_commands(self, ctx: object) -> list[str]:
        """The names, in the order in which help shows them."""
        del ctx
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  the types are in a private module of typer
        """Import a command. None if there is no command of this name."""
        if cmd_name not in self.entries:
            return None
        module, _, attribute = self.entries[cmd_name].place.partition(":")
        with without_collector(), without_rich():
            found = getattr(import_module(module), attribute)
        command = _group(found, ctx) if isinstance(found, typer.Typer) else _command(cmd_name, found)
        convert_lazily(command, ctx)
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  as above
        """Read the options before the command."""
        convert_lazily(self, ctx)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  as above
        """Write the list of commands."""
        self._listed().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401  as above
        """What may follow on the command line: the names of commands, and the options of this one."""
        listed = self._listed()
        commands = listed.shell_complete(typer.Context(listed), incomplete)
        return [*commands, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def _listed(self) -> TyperGroup:
        """The commands as they are listed, none of them imported."""
        commands: dict[str, Any] = {
            name: TyperCommand(name, help=entry.summary) for name, entry in self.entries.items()
        }
        return TyperGroup(commands=commands, add_help_option=False)


app = typer.Typer(
    name="ratelimit-service",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done or allowed; 1 denied (check, test), something is wrong (doctor), something differs "
    "(diff); 2 invalid command line, file or setting; 3 the server refused; 4 the server or a store failed or could "
    "not be reached.",
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  it takes longer than most of what starts here

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
    """Run the command line. An internal error is reported in two lines; RATELIMIT_TRACEBACK=1 shows its traceback.

    A file that cannot be used, such as one of a home folder where completion is to be installed, is no such error.
    """
    try:
        app()
    except Exception as error:
        if os.environ.get("RATELIMIT_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename:
            instead = "; --show-completion prints it, to be put elsewhere" if "--install-completion" in sys.argv else ""
            typer.echo(f"cannot use {error.filename}: {error.strerror}{instead}", err=True)
            sys.exit(Exit.USAGE)
        from ratelimit_service.logs import redact  # noqa: PLC0415  the log of a server, which commands have none of

        typer.echo(
            f"internal error: {type(error).__name__}: {escaped(redact(str(error)))}\n"
            "please report it; RATELIMIT_TRACEBACK=1 shows the traceback",
            err=True,
        )
        sys.exit(Exit.FAILED)
