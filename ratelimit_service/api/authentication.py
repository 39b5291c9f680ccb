"""Who calls, and whether they may: bearer tokens, roles, and what each method requires of its callers."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import Final, NamedTuple, Protocol

from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.api.presented import Presented
from ratelimit_service.errors import PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

__all__ = [
    "ANONYMOUS",
    "Admission",
    "Authenticator",
    "Caller",
    "Presented",
    "Role",
    "Tokens",
    "decision_admission",
    "require",
]

TOKEN_TTL: Final = 1.0
"""Seconds for which a valid token is cached, and so the maximum time that a revoked one is still accepted."""

_MAX_CACHED: Final = 1024


class Tokens(Protocol):
    """Looks up tokens."""

    async def authenticate(self, text: str, /) -> Caller:
        """The holder of a token. Raises Unauthenticated if it is not valid, Unavailable if it cannot be looked up."""
        ...


class _Verified(NamedTuple):
    caller: Caller
    until: float


class Authenticator:
    """Turns an `authorization` header into a caller.

    A valid token is cached, by its digest, for TOKEN_TTL seconds. While tokens cannot be looked up, one that was valid
    the last time stays valid: a gateway must not be cut off because Postgres is down. Calls that wait for the same
    token share one lookup.
    """

    def __init__(self, tokens: Tokens, now: Callable[[], float] = monotonic) -> None:
        self._tokens = tokens
        self._now = now
        self._verified: dict[bytes, _Verified] = {}
        self._pending: dict[bytes, asyncio.Task[Caller]] = {}

    async def authenticate(self, authorization: str | bytes | None) -> Caller:
        """The holder of the token in the header `authorization: Bearer <token>`.

        Raises Unauthenticated if there is no such header or the token is not valid, Unavailable if that is not known.
        """
        token = _bearer(authorization)
        digest = _digest(token)
        verified = self._verified.get(digest)
        if verified is not None and self._now() < verified.until:
            return verified.caller
        pending = self._pending.get(digest)
        if pending is None:
            pending = self._pending[digest] = asyncio.create_task(self._verify(token, digest))
            pending.add_done_callback(lambda task: self._settled(digest, task))
        return await asyncio.shield(pending)

    def known(self, authorization: str | bytes | None) -> str:
        """The name of the caller, if its token is cached, else empty."""
        if authorization is None:
            return ""
        try:
            token = _bearer(authorization)
        except Unauthenticated:
            return ""
        verified = self._verified.get(_digest(token))
        return "" if verified is None else verified.caller.name

    async def _verify(self, token: str, digest: bytes) -> Caller:
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
        while len(self._verified) >= _MAX_CACHED:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = _Verified(caller, self._now() + TOKEN_TTL)
        return caller

    def _settled(self, digest: bytes, task: "asyncio.Task[Caller]") -> None:
        del self._pending[digest]
        if not task.cancelled():
            task.exception()  # if every caller that waited has gone, it was never retrieved: not worth a warning


class Admission:
    """What a method requires of its callers: nothing, a valid token, or one of ROLE.

    A token that is sent must be valid in any case. If none is required, a caller without one is ANONYMOUS.
    """

    def __init__(self, authenticator: Authenticator, *, token_required: bool = True, role: Role | None = None) -> None:
        self._authenticator = authenticator
        self._role = role
        self.token_required = token_required

    async def admit(self, presented: Presented, deadline: float | None = None) -> Caller:  # noqa: ARG002  for lookups
        """The caller that PRESENTED this and waits until DEADLINE (monotonic seconds, None: for any time).

        Raises Unauthenticated, PermissionDenied, Unavailable.
        """
        if presented.authorization is None and not self.token_required:
            return ANONYMOUS
        caller = await self._authenticator.authenticate(presented.authorization)
        if self._role is not None:
            require(caller, self._role)
        return caller

    def share_of(self, presented: Presented) -> Share:
        """Whose share of the server a call uses, as far as that is known without a look-up."""
        return Share(self._authenticator.known(presented.authorization), presented.peer)


def decision_admission(authenticator: Authenticator, *, protect: bool) -> Admission:
    """The admission of the methods that decide: with PROTECT, only of callers with a token of role gateway."""
    return Admission(authenticator, token_required=protect, role=Role.GATEWAY if protect else None)


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


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogateescape")).digest()


def _bearer(authorization: str | bytes | None) -> str:
    if isinstance(authorization, bytes):
        authorization = authorization.decode("utf-8", "replace")
    scheme, _, token = (authorization or "").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "no token was sent with the call; send the header `authorization: Bearer <token>`, with a token created by "
            "`ratelimit-service admin-tokens create`",
            reason="TOKEN_MISSING",
        )
    return token
