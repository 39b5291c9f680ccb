"""The command line as a whole."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import typer
from typer.testing import CliRunner

from fixtures.dev_server import PROGRAM, DevServer
from ratelimit_service.cli.app import Commands, app


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, without any server."""
    return subprocess.run([str(PROGRAM), *arguments], capture_output=True, check=False, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str]) -> None:
    """Without a command, and with --help, each command is listed with its summary, and the exit codes below."""
    done = run(*arguments)
    shown = done.stdout + done.stderr
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and len(line.split()) > 2]
    assert [name for name in Commands.entries if name not in listed] == []
    assert "Exit codes: 0 done or allowed; 1 denied" in shown


@pytest.mark.parametrize("name", Commands.entries)
def test_a_command_is_listed_as_it_describes_itself(name: str) -> None:
    """The summary in the list of commands is the beginning of the command's own help."""
    group = Commands()
    own = group.get_command(typer.Context(group), name)
    assert " ".join(own.help.split()).startswith(Commands.entries[name].summary)


@pytest.mark.parametrize("name", Commands.entries)
def test_every_command_has_help(name: str) -> None:
    """Each command can be imported, and prints its usage and options."""
    done = CliRunner().invoke(app, [name, "--help"], prog_name="ratelimit-service")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Usage: ratelimit-service {name} ")
    assert "-h, --help" in done.stdout


DOCS: Final = Path(__file__).parents[2] / "docs"
HEAVY: Final = {"sqlalchemy", "redis", "alembic", "psycopg", "pydantic", "structlog", "starlette", "uvicorn", "rich"}
"""What a server needs, and whoever sits at a terminal: a quarter of a second each, or more."""

SENT: Final = {"grpc"}
CALLS: Final = SENT | {"google.protobuf"}
JSON_AND_FILES: Final = {"yaml", "google.protobuf.json_format"}
ERRORS: Final = {"google.rpc"}
SECRETS: Final = {"secrets", "ratelimit_service.decision.api_key"}
_MESSAGES: Final = "ratelimit_service._gen.ratelimit.v1"
ADMIN: Final = {f"{_MESSAGES}.key_admin_service_pb2", f"{_MESSAGES}.key_admin_service_pb2_grpc"}
DECISIONS: Final = {f"{_MESSAGES}.rate_limit_service_pb2_grpc"}


def unneeded(arguments: list[str], absent: set[str], environment: Mapping[str, str]) -> str:
    """Run a command, and return those of ABSENT that it imported."""
    script = (
        "import sys; from ratelimit_service.cli.app import app\n"
        f"try: app({arguments!r}, standalone_mode=False)\n"
        "except (SystemExit, Exception): pass\n"
        f"print(sorted({absent!r} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True, timeout=60)
    return (done.stdout.splitlines() or [done.stderr])[-1]


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], HEAVY | CALLS | JSON_AND_FILES),
        (["--version"], HEAVY | CALLS | JSON_AND_FILES),
        (["check", "x", "--server", "127.0.0.1:1"], HEAVY | JSON_AND_FILES | SECRETS | ADMIN),
        (["keys", "create", "--help"], HEAVY | JSON_AND_FILES | SECRETS | ERRORS | SENT),
        (["plans", "test", str(DOCS / "tutorial" / "plan.yaml")], HEAVY | SENT | ERRORS),
        (["rules", "test", str(DOCS / "rules.yaml"), "--descriptor", "path=/"], HEAVY | SENT | ERRORS),
        (["diff", "-f", str(DOCS / "rules.yaml"), "--server", "127.0.0.1:1"], HEAVY),
        (["doctor", "--server", "no address"], HEAVY | SENT | ERRORS),
        (["doctor", "--server", "127.0.0.1:1"], HEAVY),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], absent: set[str]) -> None:
    """So it starts in a fraction of a second: the list of commands imports none of them, a call no database."""
    assert unneeded(arguments, absent, os.environ) == "[]"


def test_a_call_imports_only_what_it_needs(dev_server: DevServer) -> None:
    """A call that succeeds imports nothing for errors, and neither numbers nor choices among its options do."""
    calls = {
        ("check", dev_server.state["api_key"], "--cost", "0"): ADMIN,
        ("keys", "list", "--page-size", "5", "--output", "table"): DECISIONS,
        ("plans", "list"): DECISIONS,
        ("rules", "list"): DECISIONS,
        ("usage", "--top", "3"): DECISIONS,
    }
    for arguments, others in calls.items():
        absent = HEAVY | JSON_AND_FILES | SECRETS | ERRORS | others
        assert (arguments, unneeded(list(arguments), absent, dev_server.environment)) == (arguments, "[]")


def test_of_a_group_only_the_called_command_is_made() -> None:
    """Only that, since typer takes a millisecond or more for each, and `keys` has eight; a list of them has all."""
    top = Commands()
    group = top.get_command(typer.Context(top), "keys")
    assert group.get_command(typer.Context(group), "list").name == "list"
    assert set(group.commands._made) == {"list"}
    assert group.get_command(typer.Context(group), "lst") is None
    assert {"create", "list", "rotate"} <= {name for name, command in group.commands.items() if command.help}


def test_the_shell_completes_commands_and_options() -> None:
    """The completion that `--install-completion` installs knows commands, without importing any, and their options."""
    for typed, offered in (("ke", "keys"), ("keys re", "revoke"), ("keys list --sub", "--subject-prefix")):
        words = f"ratelimit-service {typed}"
        variables = {
            "_RATELIMIT_SERVICE_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = subprocess.run(
            [str(PROGRAM)], env=os.environ | variables, capture_output=True, check=False, text=True, timeout=60
        )
        assert offered in done.stdout.split(), done.stdout + done.stderr
    assert "--install-completion" in run("--help").stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    """An unknown command is reported by name, with exit code 2."""
    done = run("keyz")
    assert (done.returncode, "No such command 'keyz'" in done.stderr) == (2, True)


def test_an_internal_error_shows_neither_traceback_nor_secret() -> None:
    """An unexpected exception ends in two lines and exit code 4, with secrets redacted."""
    script = (
        "import sys; from ratelimit_service.cli import app; "
        "app.Commands.entries = {'x': app.Entry('rlt_aaaa_bbbb:thing', '')}; "
        "sys.argv = ['ratelimit-service', 'x']; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 4
    first, second = done.stderr.splitlines()
    assert first == "internal error: ModuleNotFoundError: No module named 'rlt_aaaa_***'"
    assert second == "please report it; RATELIMIT_TRACEBACK=1 shows the traceback"


def test_completion_for_a_home_that_cannot_be_written_to() -> None:
    """That is the user's to know, in one line, and no internal error."""
    done = subprocess.run(
        ["bash", "-c", '"$0" --install-completion; exit $?', str(PROGRAM)],
        env=os.environ | {"HOME": "/proc"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cannot use /proc/.bashrc: ")
    assert done.stderr.endswith("; --show-completion prints it, to be put elsewhere\n")
    assert len(done.stderr.splitlines()) == 1
