"""The embedded PostgreSQL starts, stops, keeps its data, and is found again."""

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
    """A folder that other users may traverse; a server that is left on it is stopped."""
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
    """What was committed before a stop can be read after the next start, with the same password."""
    server = EmbeddedPostgres(home)
    server.start()
    _write(server)
    server.stop()

    again = EmbeddedPostgres(home)
    again.start()

    assert _read(again) == [("here",)]


def test_a_server_with_a_killed_parent_is_found_again(home: Path) -> None:
    """A start on a folder takes over a server that outlived its parent, and can stop it."""
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


def test_a_reused_process_id_does_not_block_the_start(home: Path) -> None:
    """A postmaster.pid with the id of a running process that is not PostgreSQL is not mistaken for the server."""
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
    """A wrong password file ends in an error that explains what to do and does not hold the password."""
    server = EmbeddedPostgres(home)
    server.start()
    (home / "password").write_text("mistaken\n")

    with pytest.raises(EmbeddedPostgresError, match="start over") as caught:
        server.start()

    assert "mistaken" not in str(caught.value)


def test_a_connection_needs_the_password(home: Path) -> None:
    """Another user of the machine can connect to the port only with the password."""
    server = EmbeddedPostgres(home)
    server.start()
    password = (home / "password").read_text().strip()

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.url.replace(password, "guess")).close()
    assert (home / "password").stat().st_mode & 0o077 == 0
