"""`ratelimit-service serve`: the service in production."""

import typer

from ratelimit_service.cli.configured import load_settings
from ratelimit_service.cli.fault import told_in_words
from ratelimit_service.cli.serving import DoorName, Listen, MetricsListen, Workers, serve_until_stopped
from ratelimit_service.processes.door import Door
from ratelimit_service.settings import Settings


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
