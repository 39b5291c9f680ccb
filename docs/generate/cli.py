"""The reference of the command line, from its parser: every command with all arguments and options."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import typer

from docs.generate.markdown import cell, prose
from ratelimit_service.cli.app import Commands, app

_PROGRAM: Final = "ratelimit-service"
_PAGE: Final = """# Command line

`ratelimit-service COMMAND --help` shows the same in a terminal, and `ratelimit-service --install-completion` has the
shell complete it. Colours are for terminals, unless `NO_COLOR` is set. Options that may be variables of the environment
name them.

**Exit codes**: 0 done or allowed; 1 denied (`check`, `test`), a problem was found (`doctor`) or something differs
(`diff`); 2 an invalid command line, file or setting; 3 the server refused; 4 the server or a store failed or could not
be reached.

{index}

## Which server

Commands that call one take these. If none is given, they use the server that `dev` started in this folder.

{server}

{commands}"""

_SERVER: Final = {
    "`--server`, `RATELIMIT_SERVER`": "`HOST:PORT` is a server on this machine, `https://HOST:PORT` one with TLS, "
    "`plaintext://HOST:PORT` one to which tokens and keys are sent unencrypted. By default `localhost:50051`.",
    "`RATELIMIT_ADMIN_SERVER`": "The same for the admin methods, where they have an address of their own "
    "(`RATELIMIT_ADMIN_LISTEN`, or a control plane apart): all commands but `check`, `settle`, `extend` and `demo` "
    "take it before `RATELIMIT_SERVER`.",
    "`--token`, `RATELIMIT_TOKEN`": "The bearer token to send: role viewer for what only reads, admin for changes, "
    "gateway for decisions. `@FILE` reads it from a file, since other users see command lines.",
    "`RATELIMIT_SERVER_CA`": "The PEM file of the CA that a server with TLS is checked by; otherwise the CAs of the "
    "system.",
    "`RATELIMIT_SERVER_CERTIFICATE`, `RATELIMIT_SERVER_KEY`": "The PEM files of a certificate to show, and of its key, "
    "where a server wants one.",
}
"""Options and variables that say which server is called, and what they mean."""

_SHARED: Final = {
    "The server to call: ": "[Which server](#which-server) to call.",
    "Bearer token to send, ": "[Which token](#which-server) to send.",
}
"""How the help of options that most commands have begins, and what the page says in place of it, once for all."""


class Command(NamedTuple):
    """A command as the parser has it: `keys create`, and what it takes."""

    name: str
    parsed: Any
    context: typer.Context

    @property
    def is_group(self) -> bool:
        """Whether other commands are below it."""
        return bool(getattr(self.parsed, "commands", {}))


def pages() -> dict[str, str]:
    """The page."""
    found = list(commands())
    index = [f"| [`{each.name}`](#{each.name.replace(' ', '-')}) | {cell(_summary(each))} |" for each in found]
    table = "\n".join(["| command | what it does |", "|---|---|", *index])
    rows = [f"| {names} | {meaning} |" for names, meaning in _SERVER.items()]
    server = "\n".join(["| option, variable | meaning |", "|---|---|", *rows])
    return {"reference/cli.md": _PAGE.format(index=table, server=server, commands="\n".join(map(_section, found)))}


def commands() -> Iterator[Command]:
    """Every command, in the order of the help; groups before what is below them."""
    top = typer.main.get_command(app)
    context = typer.Context(top, info_name=_PROGRAM)
    for name in Commands.entries:
        yield from _below(name, top.get_command(context, name), context)  # type: ignore[attr-defined]


def _below(name: str, parsed: Any, parent: typer.Context) -> Iterator[Command]:  # noqa: ANN401  private to typer
    context = typer.Context(parsed, info_name=name.rpartition(" ")[2], parent=parent)
    command = Command(name, parsed, context)
    yield command
    for sub, below in getattr(parsed, "commands", {}).items():
        yield from _below(f"{name} {sub}", below, context)


def _summary(command: Command) -> str:
    return str(command.parsed.help or "").split("\n\n")[0]


def _section(command: Command) -> str:
    level = "###" if " " in command.name else "##"
    lines = [f"{level} {command.name}", "", prose(str(command.parsed.help or "")), ""]
    if command.is_group:
        return "\n".join(lines)
    usage = " ".join([_PROGRAM, command.name, *command.parsed.collect_usage_pieces(command.context)])
    lines += ["```text", usage, "```", ""]
    params = command.parsed.get_params(command.context)
    rows = [_row(*record) for param in params if (record := _record(param, command))]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _record(param: Any, command: Command) -> tuple[str, str] | None:  # noqa: ANN401  as above
    """How a parameter is written, and what it means. None for what every command has."""
    record: tuple[str, str] | None = param.get_help_record(command.context)
    return None if param.name in {"help", "install_completion", "show_completion"} else record


def _row(written: str, meaning: str) -> str:
    shared = next((short for begin, short in _SHARED.items() if meaning.startswith(begin)), "")
    shown = f"{shared} {cell(meaning[meaning.index('[env var:') :])}" if shared else cell(meaning)
    return f"| `{written.replace('|', chr(92) + '|')}` | {shown} |"
