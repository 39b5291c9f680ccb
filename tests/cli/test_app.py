"""The command line as a whole."""

import os
import subprocess
import sys

import pytest
import typer

from fixtures.dev_server import PROGRAM
from ratelimit_service.cli.app import Commands


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
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: ratelimit-service {name} ")
    assert "-h, --help" in done.stdout


HEAVY = {"sqlalchemy", "redis", "alembic", "psycopg", "pydantic", "structlog", "starlette", "uvicorn", "rich"}
"""What a server needs, and whoever sits at a terminal: a quarter of a second each, or more."""

CALLS = {"grpc", "google.protobuf"}
FILES = {"yaml"}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], HEAVY | CALLS | FILES),
        (["--version"], HEAVY | CALLS | FILES),
        (["check", "x", "--server", "127.0.0.1:1"], HEAVY | FILES),
        (["keys", "list", "--server", "127.0.0.1:1"], HEAVY | FILES),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], absent: set[str]) -> None:
    """So it starts in a fraction of a second: the list of commands imports none of them, a call no database."""
    script = (
        "import sys; from ratelimit_service.cli.app import app\n"
        f"try: app({arguments!r}, standalone_mode=False)\n"
        "except SystemExit: pass\n"
        f"print(sorted({absent!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


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
    assert (done.returncode, done.stderr.startswith("cannot use /proc/.bashrc: ")) == (2, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
