"""The role that an action of a Manage method needs."""

from typing import Final

from ratelimit_service.api.authentication import require
from ratelimit_service.management.tokens import Caller, Role

_READS: Final = frozenset({"get", "list", "list_all"})


def check_role(caller: Caller, action: str | None) -> None:
    """Raise PermissionDenied unless CALLER may perform ACTION: a viewer what only reads, and an admin everything."""
    require(caller, Role.VIEWER if action in _READS else Role.ADMIN)
