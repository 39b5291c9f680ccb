"""`ratelimit-service serve`: the service in production."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ratelimit_service.cli.configured import load_settings
from ratelimit_service.cli.fault import Exit, Fault, told_in_words
from ratelimit_service.errors import StartupFault
from ratelimit_service.server.run import run
from ratelimit_service.server.transport import Door
from ratelimit_service.settings import Settings

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


def serve(
    *, listen: Listen = None, metrics_listen: MetricsListen = None, door: DoorName = None, workers: Workers = None
) -> None:
    """Serve until SIGTERM. Settings come from the environment: see the README's table, and `doctor`.

    SIGTERM drains and ends with exit code 0; SIGHUP restarts the workers one by one.
    """
    with told_in_words():
        settings = load_settings(listen=listen, metrics_listen=metrics_listen, door=door, workers=workers)

        def ready(opened: Settings) -> None:
            chosen = Door.choose(settings.door)
            typer.echo(f"ratelimit-service serves on {opened.listen}. Door {chosen.name}: {chosen.reason}.", err=True)

        serve_until_stopped(settings, ready)
