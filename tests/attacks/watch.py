"""What an attack costs: the memory and descriptors of the server's processes, and the work of its stores."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

import psutil
import psycopg
import redis

INTERVAL_SECONDS: Final = 0.25
_TRANSACTION_CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "START TRANSACTION", "SAVEPOINT", "RELEASE")


class Sample(NamedTuple):
    """The server's processes together at one moment."""

    memory_mb: float
    """Resident, in MiB, shared pages counted once for each process."""
    descriptors: int
    processes: int


@dataclass(frozen=True)
class Counters:
    """What the stores have done so far."""

    statements: Mapping[str, int]
    """The calls of each statement of the server's database, without those that begin and end transactions."""
    commands: Mapping[str, int]
    """The calls of each command of Redis, those that scripts make included, without the watch's own."""

    def since(self, earlier: "Counters") -> "Counters":
        """What was done after EARLIER."""
        return Counters(_difference(self.statements, earlier.statements), _difference(self.commands, earlier.commands))

    @property
    def all_statements(self) -> int:
        """How many statements of all kinds."""
        return sum(self.statements.values())

    @property
    def all_commands(self) -> int:
        """How many commands of all kinds."""
        return sum(self.commands.values())


class Watch:
    """Watches one server and its stores. Postgres needs the extension pg_stat_statements."""

    def __init__(self, pid: int, database_url: str, redis_url: str) -> None:
        self._process = psutil.Process(pid)
        self._postgres = psycopg.connect(database_url, autocommit=True)
        self._postgres.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        self._redis = redis.Redis.from_url(redis_url)
        self._peak = Sample(0.0, 0, 0)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def execute(self, statement: str) -> None:
        """Run a statement as the owner of the database, for what would take calls by the thousand."""
        self._postgres.execute(statement.encode())

    def attach(self, pid: int) -> None:
        """Watch the process that has taken the server's place."""
        self._process = psutil.Process(pid)

    def sample(self) -> Sample:
        """The processes now. One that ends meanwhile counts nothing."""
        memory = descriptors = processes = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                memory += process.memory_info().rss
                descriptors += process.num_fds()
                processes += 1
        return Sample(memory / 2**20, descriptors, processes)

    def counters(self) -> Counters:
        """What the stores have done so far."""
        rows = self._postgres.execute(
            "SELECT query, sum(calls)::bigint FROM pg_stat_statements WHERE dbid = "
            "(SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY query"
        ).fetchall()
        statements = {
            query: calls
            for query, calls in rows
            if not query.upper().startswith(_TRANSACTION_CONTROL) and "pg_stat_statements" not in query
        }
        info = self._redis.info("commandstats")
        own = {"info", "client|setinfo", "hello"}
        commands = {name.removeprefix("cmdstat_"): values["calls"] for name, values in info.items()}
        return Counters(statements, {name: calls for name, calls in commands.items() if name not in own})

    def start(self) -> None:
        """Look for the peak of memory and descriptors from now on, several times a second."""
        self._peak = self.sample()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> Sample:
        """Stop, and return the peak of each since `start`."""
        assert self._thread is not None
        self._stopped.set()
        self._thread.join()
        self._include(self.sample())
        return self._peak

    def close(self) -> None:
        """Close the connections to the stores."""
        self._postgres.close()
        self._redis.close()

    def _follow(self) -> None:
        while not self._stopped.wait(INTERVAL_SECONDS):
            self._include(self.sample())

    def _include(self, sample: Sample) -> None:
        self._peak = Sample(*map(max, self._peak, sample))


def _difference(later: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    found = {name: calls - earlier.get(name, 0) for name, calls in later.items()}
    return {name: calls for name, calls in found.items() if calls > 0}
