"""`ratelimit-service serve`: the service in production."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ratelimit_service.cli.configured import load_settings
from ratelimit_service.cli.fault import Exit, Fault, report_faults
from ratelimit_service.errors import StartupFault
from ratelimit_service.server.run import run
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

Listen = Annotated[
    str | None, typer.Option("--listen", metavar="HOST:PORT", help="Address of the gRPC port; 0 is any free one.")
]
MetricsListen = Annotated[
    str | None, typer.Option("--metrics-listen", metavar="HOST:PORT", help="Address of /metrics. Empty opens none.")
]
TransportName = Annotated[
    Literal["auto", "grpcio", "envoy"] | None, typer.Option("--transport", help="How calls come in.")
]
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
    *,
    listen: Listen = None,
    metrics_listen: MetricsListen = None,
    transport: TransportName = None,
    workers: Workers = None,
) -> None:
    """Serve until SIGTERM. Settings come from the environment: see the README's table, and `doctor`.

    SIGTERM drains and ends with exit code 0; SIGHUP restarts the workers one by one.
    """
    with report_faults():
        settings = load_settings(listen=listen, metrics_listen=metrics_listen, transport=transport, workers=workers)

        def ready(opened: Settings) -> None:
            chosen = Transport.choose(settings.transport)
            typer.echo(
                f"ratelimit-service serves on {opened.listen}. Transport {chosen.name}: {chosen.reason}.", err=True
            )

        serve_until_stopped(settings, ready)
