"""What the processes of one server share: settings, the port and a folder."""

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import SecretStr

from ratelimit_service.errors import StartupError
from ratelimit_service.metrics import DIRECTORY_VARIABLE, forget_worker
from ratelimit_service.operations.heartbeat import HEARTBEATS_VARIABLE, forget_heartbeat
from ratelimit_service.own_switch import SWITCH_VARIABLE
from ratelimit_service.server.port import PortLock, with_port
from ratelimit_service.settings import Settings

_PREFIX = "RATELIMIT_"

_QUIET_LIBRARY = {"GRPC_VERBOSITY": "NONE"}
"""What has the gRPC library write no lines of its own, one for each call that is malformed: whoever reaches the port
would fill the log at megabytes a second, or have the process wait for the log's reader."""

_MAX_FOLDER = 107 - len("/control-1000000.sock")
"""Bytes of the name of a folder in which sockets are made: of 108 for a socket, with a zero at the end (unix(7))."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Instance:
    """One server: its settings, its ports, and a folder of its own that only this user can enter."""

    settings: Settings
    lock: PortLock
    admin_lock: PortLock | None
    """The port of the admin methods, if they have one of their own."""
    folder: Path
    ended: set[int] = field(default_factory=set)
    """The ids of the processes that have ended, and whose files are to be cleaned up."""

    @property
    def metrics(self) -> Path:
        """The folder where workers keep their metrics."""
        return self.folder / "metrics"

    @property
    def heartbeats(self) -> Path:
        """The folder where workers show that they serve."""
        return self.folder / "heartbeats"

    @property
    def switch(self) -> Path:
        """The file with the switch of this server alone."""
        return self.folder / "enforcement.json"

    @property
    def control_socket(self) -> Path:
        """The socket of the newest control plane, which serves what the gRPC port does."""
        return self.folder / "control.sock"

    @property
    def opened(self) -> dict[str, str]:
        """The settings of the ports with the addresses as they were opened."""
        opened = {"listen": with_port(self.settings.listen, self.lock.port)}
        if self.admin_lock is not None:
            opened["admin_listen"] = with_port(self.settings.admin_listen, self.admin_lock.port)
        return opened

    def environment(self, **changes: object) -> Mapping[str, str]:
        """The environment of a process with these settings, CHANGES apart."""
        folders = {HEARTBEATS_VARIABLE: str(self.heartbeats), SWITCH_VARIABLE: str(self.switch)}
        return child_environment(self.settings.model_copy(update=changes), self.metrics) | folders

    def on_exit(self, pid: int) -> None:
        """Clean up after the process with this id, which has ended.

        Without a free descriptor, or space, that waits for the end of the next one: another process has to be started.
        """
        self.ended.add(pid)
        for each in tuple(self.ended):
            try:
                forget_worker(each, self.metrics)
                forget_heartbeat(each, self.heartbeats)
            except OSError as error:
                _log.warning("the files of an ended process cannot be cleaned up now", pid=each, error=str(error))
            else:
                self.ended.discard(each)


@contextmanager
def open_instance(settings: Settings) -> Iterator[Instance]:
    """Take the ports and make the folder; release them at the end. Raises StartupError."""
    with ExitStack() as stack:
        lock = stack.enter_context(PortLock(settings.listen))
        admin = settings.admin_listen
        admin_lock = stack.enter_context(PortLock(admin, "RATELIMIT_ADMIN_LISTEN")) if admin else None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ratelimit-"))
        if len(os.fsencode(folder)) > _MAX_FOLDER:
            raise StartupError(
                f"the folder for temporary files, {Path(folder).parent}, has too long a name for sockets in it; set "
                "TMPDIR to a shorter one"
            )
        instance = Instance(settings, lock, admin_lock, Path(folder))
        instance.metrics.mkdir()
        instance.heartbeats.mkdir()
        _keep(instance.folder, stack)
        yield instance


def _keep(folder: Path, stack: ExitStack) -> None:
    """Lock a folder: what cleans up temporary folders, such as systemd-tmpfiles, leaves out those that are locked."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, opened)
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def child_environment(settings: Settings, metrics: Path) -> dict[str, str]:
    """This process's environment with exactly these settings, and the folder where workers keep their metrics.

    The gRPC library writes nothing past our log, unless that is asked for.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(_PREFIX)}
    own = {_PREFIX + name.upper(): _text(value) for name, value in settings if value is not None}
    return _QUIET_LIBRARY | inherited | own | {DIRECTORY_VARIABLE: str(metrics)}


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
