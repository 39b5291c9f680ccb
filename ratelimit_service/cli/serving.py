"""What `serve` and `dev` share: their options, and running until told to stop."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ratelimit_service.cli.exits import Exit
from ratelimit_service.cli.fault import Fault
from ratelimit_service.processes.run import run
from ratelimit_service.settings import Settings
from ratelimit_service.startup import StartupFault

Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Address of the gRPC port; 0 is any free one.")
]
MetricsListen = Annotated[
    str | None, typer.Option("--metrics-listen", metavar="HOST:PORT", help="Address of /metrics. Empty opens none.")
]
DoorName = Annotated[Literal["auto", "grpcio", "envoy"] | None, typer.Option("--door", help="How calls come in.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes that share the port.")]


def serve_until_stopped(settings: Settings, ready: Callable[[Settings], None]) -> None:
    """Serve until SIGTERM or Ctrl-C has drained the calls. Raises Fault when the server cannot start.

    READY is called once it serves, with the settings as they came to be: no port in them is 0.
    """
    try:
        run(settings, ready=ready)
    except StartupFault as fault:
        raise Fault(Exit.FAILED, (str(fault),)) from None
