"""A Valkey behind a proxy, and the ways to break it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from faults.proxy import FaultProxy
from fixtures.redis_cluster import free_port
from ratelimit_service.devstores.valkey import EmbeddedValkey

FAULTS: Final = ("SIGKILL", "SIGSTOP", "half-open", "+30 ms", "+30 ms with jitter")


@dataclass
class BrokenStore:
    """A store that a test may break, and must mend."""

    proxy: FaultProxy
    server: EmbeddedValkey

    def begin(self, fault: str) -> None:
        """Break it."""
        if fault == "SIGSTOP":
            os.kill(self.server.pid, signal.SIGSTOP)
        elif fault == "SIGKILL":
            os.kill(self.server.pid, signal.SIGKILL)
        elif fault == "half-open":
            self.proxy.inject(half_open=True)
        elif fault == "+30 ms":
            self.proxy.inject(delay=0.03)
        else:
            self.proxy.inject(delay=0.03, jitter=0.03)

    def end(self, fault: str) -> None:
        """Mend it."""
        if fault == "SIGSTOP":
            os.kill(self.server.pid, signal.SIGCONT)
        elif fault == "SIGKILL":
            self.server.stop()
            self.server.start()
        self.proxy.heal()


@contextmanager
def broken_store(folder: Path) -> Iterator[BrokenStore]:
    """A store with its data in FOLDER, whole again at the end of the block."""
    server = EmbeddedValkey(folder, free_port())
    server.start()
    try:
        with FaultProxy(server.port) as proxy:
            yield BrokenStore(proxy, server)
            os.kill(server.pid, signal.SIGCONT)
    finally:
        server.stop()
