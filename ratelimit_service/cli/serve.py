"""`ratelimit-service serve`: the service in production."""

from collections.abc import Callable
from typing import Annotated, Literal

import typer

from ratelimit_service.cli.environment import load_settings
from ratelimit_service.cli.errors import CommandError, Exit, report_errors
from ratelimit_service.errors import StartupError
from ratelimit_service.server.exposure import open_ports
from ratelimit_service.server.run import run
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings

Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Address of the gRPC port; port 0 is any free one."),
]
OperationsListen = Annotated[
    str | None,
    typer.Option(
        "--operations-listen",
        metavar="HOST:PORT",
        help="Address of /metrics, /healthz, /readyz, /status and /console. If empty, there is none.",
    ),
]
TransportName = Annotated[
    Literal["auto", "grpcio", "envoy"] | None, typer.Option("--transport", help="The gRPC transport.")
]
Plane = Annotated[
    Literal["all", "decision", "control"] | None,
    typer.Option("--plane", help="What to serve: the decision plane, the control plane, or both."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Server processes that share the port.")]


def serve_until_stopped(settings: Settings, ready: Callable[[Settings], None]) -> None:
    """Serve until SIGTERM or Ctrl-C has drained the calls. Raises CommandError when the server cannot start.

    READY is called once it serves, with the settings in effect: no port in them is 0.
    """
    try:
        run(settings, ready=ready)
    except StartupError as error:
        raise CommandError(Exit.FAILED, *str(error).splitlines()) from None


def serve(
    *,
    listen: Listen = None,
    operations_listen: OperationsListen = None,
    transport: TransportName = None,
    workers: Workers = None,
    plane: Plane = None,
) -> None:
    """Serve until SIGTERM. Settings are read from the environment: see docs/reference/settings.md, and `doctor`.

    SIGTERM drains and exits with 0; SIGHUP restarts the workers one by one.
    """
    with report_errors():
        settings = load_settings(
            listen=listen, operations_listen=operations_listen, transport=transport, workers=workers, plane=plane
        )

        def ready(in_effect: Settings) -> None:
            chosen = Transport.choose(settings)
            plane = "" if settings.plane == "all" else f" Plane {settings.plane}."
            typer.echo(
                f"ratelimit-service serves on {in_effect.listen}.{plane} Transport {chosen.name}: {chosen.reason}.",
                err=True,
            )
            for port in open_ports(in_effect):
                typer.echo(f"open: {port}", err=True)

        serve_until_stopped(settings, ready)
