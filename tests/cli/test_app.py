"""The command line as a whole."""

import subprocess
import sys

import pytest

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
    assert [name for name in Commands.modules if name not in listed] == []
    assert "Exit codes: 0 done or allowed; 1 denied" in shown


@pytest.mark.parametrize("name", Commands.modules)
def test_every_command_has_help(name: str) -> None:
    """Each command can be imported, and prints its usage and options."""
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: ratelimit-service {name} ")
    assert "-h, --help" in done.stdout


def test_a_command_that_calls_a_server_imports_no_database() -> None:
    """A command imports only what it needs, so that it starts in a fraction of a second."""
    script = (
        "import sys; from ratelimit_service.cli.app import app; "
        "app(['check', 'x', '--server', '127.0.0.1:1'], standalone_mode=False); "
        "print(sorted({'sqlalchemy', 'redis', 'alembic', 'psycopg'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    """An unknown command is reported by name, with exit code 2."""
    done = run("keyz")
    assert (done.returncode, "No such command 'keyz'" in done.stderr) == (2, True)


def test_an_internal_error_shows_neither_traceback_nor_secret() -> None:
    """An unexpected exception ends in two lines and exit code 4, with secrets redacted."""
    script = (
        "import sys; from ratelimit_service.cli import app; "
        "app.Commands.modules = {'x': 'rlt_aaaa_bbbb:thing'}; sys.argv = ['ratelimit-service', 'x']; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 4
    first, second = done.stderr.splitlines()
    assert first == "internal error: ModuleNotFoundError: No module named 'rlt_aaaa_***'"
    assert second == "please report it; RATELIMIT_TRACEBACK=1 shows the traceback"
