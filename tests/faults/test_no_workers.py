"""No worker of a server serves, and none can start: it is not ready, an alert says so, and it is over by itself."""

import time
from collections.abc import Callable

from faults.alert_rules import firing
from faults.sizes import FACTOR
from fixtures.postgres import OwnPostgres
from fixtures.served import Server, free_address
from operations.probe import ask, wait_for

SECONDS = 6 * FACTOR


def test_a_server_without_workers_says_so(own_server: Callable[..., Server], own_postgres: OwnPostgres) -> None:
    """Its workers end while Postgres is away, without which no other can start; once it is back they do."""
    server = own_server("grpcio", operations_listen=free_address(), database_url=own_postgres.server.url)
    address, port = server.settings.operations_listen, own_postgres.server.port
    wait_for(address, 200, "ready")

    def fires() -> bool:
        return "RatelimitWorkersMissing" in firing(ask(address, "/metrics").text)

    assert not fires()
    server.close_channel()  # no process may be started beside its threads
    own_postgres.server.stop()
    for worker in server.workers():
        worker.kill()
    began = time.monotonic()
    while not fires():
        assert time.monotonic() - began < SECONDS, server.output
        time.sleep(0.1)
    assert ask(address, "/readyz").status == 503
    own_postgres.start_on(port)
    while fires():
        assert time.monotonic() - began < 10 * SECONDS, server.output
        time.sleep(0.1)
    wait_for(address, 200, "ready")
