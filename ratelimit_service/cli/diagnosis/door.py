"""The doors."""

from collections.abc import Iterator

from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.processes.door import Door
from ratelimit_service.settings import Settings
from ratelimit_service.startup import StartupFault


def examine_door(settings: Settings) -> Iterator[Finding]:
    """Which door would open."""
    try:
        door = Door.choose(settings.door)
    except StartupFault as fault:
        yield Finding.fault("door", str(fault))
    else:
        yield Finding.ok("door", f"{door.name} opens: {door.reason}")
