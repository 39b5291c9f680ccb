"""Servers to attack, and the table of what attacks did."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from attacks.attacked import REPORTS, Target
from attacks.sizes import FULL
from attacks.watch import Watch
from fixtures.rights import with_least_rights
from fixtures.served import Serve, Server, free_address
from ratelimit_service.buckets.breaker import SLOW
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.valkey import EmbeddedValkey
from ratelimit_service.postgres.migrate import upgrade

TRANSPORTS = ("envoy", "grpcio")
HERE = Path(__file__).parent

StartTarget = Callable[..., Target]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the attacks the time that their full size takes."""
    for item in items:
        if FULL and HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each attack did."""
    if not REPORTS:
        return
    rows = [report.row() for report in REPORTS]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    terminalreporter.section("attacks (ms, MiB)")
    for row in ({name: name for name in widths}, *rows):
        terminalreporter.write_line("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Create a migrated database on a server of the attacks' own, which counts statements, and return its URL."""
    home = Path(tempfile.mkdtemp(prefix="ratelimit-pg-"))
    settings = {"fsync": "off", "synchronous_commit": "off", "shared_preload_libraries": "pg_stat_statements"}
    server = EmbeddedPostgres(home, settings=settings)
    server.start()
    numbers = count(1)

    def make() -> str:
        name = f"attacked_{next(numbers)}"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
        url = f"{server.url.rpartition('/')[0]}/{name}"
        upgrade(url)
        return url

    yield make
    server.stop()
    shutil.rmtree(home)


def _target_scope(fixture_name: str, config: pytest.Config) -> Literal["module", "session"]:
    """Each module has servers of its own when figures count. In CI their start would take longer than the attacks."""
    del fixture_name, config
    return "module" if FULL else "session"


@pytest.fixture(scope=_target_scope, params=TRANSPORTS)
def target(
    request: pytest.FixtureRequest,
    serve_for_session: Serve,
    new_database: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """A server with default settings on each transport, on its own stores, for all attacks that leave it as it is."""
    folder, console = tmp_path_factory.mktemp("valkey"), free_address()
    with running_target(serve_for_session, new_database(), folder, request.param, operations_listen=console) as started:
        yield started


@pytest.fixture(params=TRANSPORTS)
def unwatched_server(request: pytest.FixtureRequest, shared_server: Callable[[str], Server]) -> Server:
    """A server on each transport, for attacks that watch no victim and leave it as it is."""
    return shared_server(request.param)


@pytest.fixture
def start_target(
    serve: Serve, new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartTarget]:
    """Start a server of the test's own: `start_target("envoy", workers=2)`."""
    with ExitStack() as stack:

        def start(transport: str, **changes: object) -> Target:
            folder = tmp_path_factory.mktemp("valkey")
            return stack.enter_context(running_target(serve, new_database(), folder, transport, **changes))

        yield start


@contextmanager
def running_target(
    serve: Serve, database_url: str, folder: Path, transport: str, **changes: object
) -> Iterator[Target]:
    """A server on a database and a Valkey that nobody else uses, in both with the least rights."""
    with ExitStack() as stack:
        valkey = EmbeddedValkey(folder)
        valkey.start()
        stack.callback(valkey.stop)
        least = with_least_rights(database_url, valkey.url)
        slow = {"store_timeout": 0.1, "store_slow": SLOW} if FULL else {}  # figures are those of default settings
        server = serve(transport, **{**least._asdict(), **slow, **changes})
        target = Target(server, Watch(server.process.pid, database_url, valkey.url), transport)

        def stop() -> None:
            target.server.close()  # maybe another than SERVER: the test may have started it again

        stack.callback(stop)
        stack.callback(target.watch.close)
        yield target
