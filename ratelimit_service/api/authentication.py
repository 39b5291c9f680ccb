"""Who may call the methods of the decision plane."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Final, NamedTuple, Protocol

from ratelimit_service.errors import PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

__all__ = ["ANONYMOUS", "Authenticator", "Caller", "GatewayAdmission", "OpenAdmission", "Role", "Tokens", "require"]

GOOD_FOR: Final = 1.0
"""Seconds for which a token that was found good is not looked up again, and so the longest that a revoked one lives."""

_MAX_KEPT = 1024


class Tokens(Protocol):
    """Knows which tokens are good."""

    async def authenticate(self, text: str, /) -> Caller:
        """Whose token this is. Raises Unauthenticated, and Unavailable when it cannot tell."""
        ...


class _Verified(NamedTuple):
    caller: Caller
    until: float


class Authenticator:
    """Turns an `authorization` header into a caller.

    A good token is remembered, by its digest, for GOOD_FOR seconds. While the tokens cannot be looked up, one that was
    good the last time stays good: a gateway must not be cut off because Postgres is away. However many calls wait for
    the same token, it is looked up once.
    """

    def __init__(self, tokens: Tokens, now: Callable[[], float] = monotonic) -> None:
        self._tokens = tokens
        self._now = now
        self._verified: dict[bytes, _Verified] = {}
        self._pending: dict[bytes, asyncio.Task[Caller]] = {}

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller whose token the header `authorization: Bearer <token>` holds.

        Raises Unauthenticated if there is no such header or the token is not good, Unavailable if nobody knows.
        """
        token = _bearer(authorization)
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        verified = self._verified.get(digest)
        if verified is not None and self._now() < verified.until:
            return verified.caller
        pending = self._pending.get(digest)
        if pending is None:
            pending = self._pending[digest] = asyncio.create_task(self._authenticate(token, digest))
            pending.add_done_callback(lambda task: self._settled(digest, task))
        return await asyncio.shield(pending)

    async def _authenticate(self, token: str, digest: bytes) -> Caller:
        try:
            caller = await self._tokens.authenticate(token)
        except Unauthenticated:
            self._verified.pop(digest, None)
            raise
        except Unavailable:
            verified = self._verified.get(digest)
            if verified is None:
                raise
            caller = verified.caller
        self._verified.pop(digest, None)
        while len(self._verified) >= _MAX_KEPT:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = _Verified(caller, self._now() + GOOD_FOR)
        return caller

    def _settled(self, digest: bytes, task: "asyncio.Task[Caller]") -> None:
        del self._pending[digest]
        if not task.cancelled():
            task.exception()  # all who waited may have gone: that is not an error to report


def require(caller: Caller, needed: Role) -> None:
    """Raise PermissionDenied unless CALLER has role NEEDED, or is an admin where a viewer would do."""
    role = caller.role
    if role is needed or (role is Role.ADMIN and needed is Role.VIEWER):
        return
    held = "none" if role is None else role.value
    raise PermissionDenied(
        f"the call needs a token of role {needed.value}; the role of this call is {held}",
        reason="ROLE_INSUFFICIENT",
        metadata={"role": held, "needed": needed.value},
    )


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "no token came with the call; send the header `authorization: Bearer <token>`, with a token made by "
            "`ratelimit-service admin-tokens create`",
            reason="TOKEN_MISSING",
        )
    return token


class OpenAdmission:
    """Anybody may call; whoever sends a token is known by it, and an invalid one is refused."""

    anonymous: Final[Caller | None] = ANONYMOUS
    """The caller without a token."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, authorization: bytes | None) -> Caller:
        """The caller behind the `authorization` header. Raises Unauthenticated, Unavailable."""
        return await self._authenticator.authenticate(_text(authorization))


class GatewayAdmission:
    """Only callers with a token of role gateway may call."""

    anonymous: Final[Caller | None] = None

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, authorization: bytes | None) -> Caller:
        """The caller behind the `authorization` header. Raises Unauthenticated, PermissionDenied, Unavailable."""
        caller = await self._authenticator.authenticate(_text(authorization))
        require(caller, Role.GATEWAY)
        return caller


def _text(authorization: bytes | None) -> str | None:
    return None if authorization is None else authorization.decode("utf-8", "replace")
