"""What the processes of one server have in common."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ratelimit_service.metrics import forget_worker
from ratelimit_service.processes.environment import child_environment
from ratelimit_service.processes.port import PortLock
from ratelimit_service.settings import Settings


@dataclass(frozen=True, slots=True)
class Site:
    """The settings and the port of a server, and a folder of its own that only this user can enter."""

    settings: Settings
    lock: PortLock
    folder: Path

    @property
    def metrics(self) -> Path:
        """The folder where workers keep their metrics."""
        return self.folder / "metrics"

    def environment(self, **changes: object) -> Mapping[str, str]:
        """The environment of a process with these settings, CHANGES apart."""
        return child_environment(self.settings.model_copy(update=changes), self.metrics)

    def gone(self, pid: int) -> None:
        """The process with this id has ended."""
        forget_worker(pid, self.metrics)


@contextmanager
def open_site(settings: Settings) -> Iterator[Site]:
    """Take the port and make the folder; give both up at the end. Raises StartupFault."""
    with PortLock(settings.listen) as lock, tempfile.TemporaryDirectory(prefix="ratelimit-") as folder:
        site = Site(settings, lock, Path(folder))
        site.metrics.mkdir()
        yield site
