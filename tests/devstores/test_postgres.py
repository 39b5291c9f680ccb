"""The embedded PostgreSQL starts, stops, keeps what it has, and is found again."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.system_user import EmbeddedPostgresError


@pytest.fixture
def home() -> Iterator[Path]:
    """Give a folder that others may pass through, and stop whatever server is left on it."""
    folder = Path(tempfile.mkdtemp(prefix="ratelimit-pg-"))
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder)


def _write(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('here')")


def _read(server: EmbeddedPostgres) -> object:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT word FROM kept").fetchall()


def test_a_second_start_keeps_everything(home: Path) -> None:
    """What was committed before a stop is there after the next start, under the same password."""
    server = EmbeddedPostgres(home)
    server.start()
    _write(server)
    server.stop()

    again = EmbeddedPostgres(home)
    again.start()

    assert _read(again) == [("here",)]


def test_a_server_whose_parent_was_killed_is_found_again(home: Path) -> None:
    """A start on a folder whose server outlived its parent takes that server over, and can stop it."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from ratelimit_service.devstores.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code, str(home)], check=False, capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    orphan = psutil.Process(int(parent.stdout.splitlines()[-1]))

    server = EmbeddedPostgres(home)
    server.start()

    assert server.pid == orphan.pid
    _write(server)
    server.stop()
    orphan.wait(10)


def test_a_killed_server_is_started_again(home: Path) -> None:
    """A postmaster.pid left by a server that was killed does not block the next start."""
    server = EmbeddedPostgres(home)
    server.start()
    _write(server)
    process = psutil.Process(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    process.wait(10)

    again = EmbeddedPostgres(home)
    again.start()

    assert _read(again) == [("here",)]


def test_a_number_taken_by_another_process_does_not_block(home: Path) -> None:
    """A postmaster.pid that names a living process which is no PostgreSQL is not taken for the server."""
    server = EmbeddedPostgres(home)
    server.start()
    pid_file = home / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.stop()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    server.start()

    assert server.pid != os.getpid()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_lost_password_is_explained(home: Path) -> None:
    """A password that no longer fits ends in an error that says what to do and does not hold the password."""
    server = EmbeddedPostgres(home)
    server.start()
    (home / "password").write_text("mistaken\n")

    with pytest.raises(EmbeddedPostgresError, match="begin afresh") as caught:
        server.start()

    assert "mistaken" not in str(caught.value)


def test_no_password_no_entry(home: Path) -> None:
    """Another user of the machine who can reach the port gets in only with the password."""
    server = EmbeddedPostgres(home)
    server.start()
    password = (home / "password").read_text().strip()

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url.replace(password, "guess")).close()
    assert (home / "password").stat().st_mode & 0o077 == 0
