"""What the tests of the clients share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "clients" / "python" / "src"))  # the client is a distribution of its own

from clients.scripted_server import ScriptedServer  # noqa: E402  needs the line above


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A real server of RateLimitService with scripted responses."""
    server = ScriptedServer()
    yield server
    server.close()
