"""Who may call the methods of the decision plane."""

from ratelimit_service.doors.authentication import Authenticator, require
from ratelimit_service.keys.token import ANONYMOUS, Caller, Role


class OpenAdmission:
    """Anybody may call; whoever sends a token is known by it, and one that is not good is refused."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, authorization: bytes | None) -> Caller:
        """The caller behind the `authorization` header. Raises Unauthenticated, Unavailable."""
        return ANONYMOUS if authorization is None else await self._authenticator.authenticate(_text(authorization))


class GatewayAdmission:
    """Only callers with a token of role gateway may call."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, authorization: bytes | None) -> Caller:
        """The caller behind the `authorization` header. Raises Unauthenticated, PermissionDenied, Unavailable."""
        caller = await self._authenticator.authenticate(None if authorization is None else _text(authorization))
        require(caller, Role.GATEWAY)
        return caller


def _text(authorization: bytes) -> str:
    return authorization.decode("utf-8", "replace")
