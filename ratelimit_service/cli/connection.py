"""From a command's options to a client of the server that they name."""

from collections.abc import Iterator
from contextlib import contextmanager

from ratelimit_service.cli.client import Client
from ratelimit_service.cli.fault import told_in_words
from ratelimit_service.cli.target import Target


@contextmanager
def connect(server: str | None, token: str | None) -> Iterator[Client]:
    """Connect to the server named, for the length of the block. A Fault raised within ends the command in words."""
    with told_in_words(), Client(Target.choose(server, token)) as client:
        yield client
