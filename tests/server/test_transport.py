"""Which transport is chosen, and what is reported where the faster one cannot be."""

import sys

import find_libpython
import pytest

from ratelimit_service.errors import StartupError
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings


def test_without_the_library_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian has it in a package of its own, without headers: the other transport serves, and the reason names it."""
    monkeypatch.setattr(find_libpython, "find_libpython", lambda: None)
    chosen = Transport.choose(Settings())
    assert chosen.name == "grpcio"
    package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    assert f"this Python has no shared {package}; install it (Debian: {package})" in chosen.reason
    with pytest.raises(StartupError, match="set RATELIMIT_TRANSPORT to grpcio or auto"):
        Transport.choose(Settings(transport="envoy"))
