"""Who calls."""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a token is good for. An admin may do what a viewer may; a gateway may only have calls decided."""

    VIEWER = "viewer"
    ADMIN = "admin"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever made a call: the name of their token and its role. `role` is None for one who sent no token."""

    name: str
    role: Role | None


ANONYMOUS = Caller("", None)
"""One who sent no token."""

LOCAL = Caller("cli", Role.ADMIN)
"""Whoever runs the command line on the server's own machine with the database's URL."""
