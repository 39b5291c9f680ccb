"""Who calls, and whether they may: bearer tokens, certificates, roles, and what each method requires of its callers."""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from ratelimit_service.api.guessing import GuessLimiter
from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.api.presented import Presented
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.errors import LookupDeferred, PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.known_tokens import TOKEN_TTL
from ratelimit_service.management.tokens import ANONYMOUS, UNDECIDED, Caller, Role, StoredToken, Token

__all__ = [
    "ANONYMOUS",
    "TOKEN_TTL",
    "UNDECIDED",
    "Admission",
    "Authenticator",
    "Caller",
    "Presented",
    "Role",
    "Tokens",
    "decision_admission",
    "deferred_token",
    "require",
    "require_known",
    "share_of",
]

MAX_AUTHORIZATION: Final = 256
"""Bytes of an `authorization` header. A longer one has no token of ours in it, and is neither read nor hashed."""

_MAX_VERIFIED: Final = 1_024  # at most twice as many headers that were found to be right


class Tokens(Protocol):
    """The valid tokens, as `management.known_tokens.KnownTokens` has them."""

    @property
    def generation(self) -> int:
        """Changes whenever the tokens do."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether the tokens need not be read again yet."""
        ...

    async def find(self, token_id: str, deadline: float | None = None) -> StoredToken | None:
        """The valid token with this id, or None. Raises LookupDeferred, Unavailable."""
        ...

    def watch(self, token: Token, on_end: Callable[[], None]) -> Callable[[], None]:
        """Call ON_END once when TOKEN is no longer valid. Returns what ends the watch."""
        ...


class _Verified(NamedTuple):
    caller: Caller
    generation: int


class Authenticator:
    """Turns what a call presents into a caller.

    A header that was found to be right is remembered, by a digest, until tokens change. Answers to wrong tokens come
    later and later, by the address that sends them; those to right ones never do.
    """

    def __init__(self, tokens: Tokens, guesses: GuessLimiter | None = None) -> None:
        self._tokens = tokens
        self._guesses = guesses or GuessLimiter()
        self._verified: LruCache[bytes, _Verified] = LruCache(_MAX_VERIFIED)
        self._gateways: dict[str, Caller] = {}

    async def authenticate(self, presented: Presented, deadline: float | None = None) -> Caller:
        """The holder of the token in the header `authorization: Bearer <token>`, or else of the certificate.

        Waits at most until DEADLINE (monotonic seconds). Raises Unauthenticated if there is no such header or the token
        is not valid, LookupDeferred if its turn to be looked up did not come, Unavailable if that is not possible.
        """
        authorization = presented.authorization
        if authorization is None and presented.certificate:
            return self._gateway(presented.certificate)
        if isinstance(authorization, str):
            authorization = authorization.encode("utf-8", "replace")
        if authorization is not None and len(authorization) > MAX_AUTHORIZATION:
            raise _invalid()
        digest = blake2b(authorization or b"", digest_size=16).digest()
        caller = self._remembered(digest)
        if caller is not None:
            return caller
        token = _bearer(authorization)
        stored = await self._tokens.find(token.token_id, deadline)
        if stored is None or not stored.accepts(token):
            await self._guesses.wrong(presented.address, deadline)  # the seconds that it returns are for people
            raise _invalid()
        self._verified.put(digest, _Verified(stored.holder, self._tokens.generation))
        return stored.holder

    def remembered(self, authorization: bytes) -> Caller | None:
        """The holder of the token in this header, if it was found to be right and need not be read again yet."""
        if len(authorization) > MAX_AUTHORIZATION:
            return None
        return self._remembered(blake2b(authorization, digest_size=16).digest())

    def _remembered(self, digest: bytes) -> Caller | None:
        verified = self._verified.get(digest)
        if verified is not None and verified.generation == self._tokens.generation and self._tokens.fresh:
            return verified.caller
        return None

    def known(self, presented: Presented) -> str:
        """The name of the caller, if that is known without a lookup, else empty."""
        authorization = presented.authorization
        if authorization is None:
            return presented.certificate
        if isinstance(authorization, str):
            authorization = authorization.encode("utf-8", "replace")
        if len(authorization) > MAX_AUTHORIZATION:
            return ""
        verified = self._verified.get(blake2b(authorization, digest_size=16).digest())
        return "" if verified is None else verified.caller.name

    def watch(self, presented: Presented, on_end: Callable[[], None]) -> Callable[[], None]:
        """Call ON_END once when the token that a call PRESENTED is no longer valid. Returns what ends the watch.

        Never called for a call that presented none.
        """
        authorization = presented.authorization
        if authorization is None:
            return lambda: None
        if isinstance(authorization, str):
            authorization = authorization.encode("utf-8", "replace")
        return self._tokens.watch(_bearer(authorization), on_end)

    def _gateway(self, name: str) -> Caller:
        """The caller with a certificate with this NAME, one of those that are listed."""
        caller = self._gateways.get(name)
        if caller is None:
            caller = self._gateways[name] = Caller(name, Role.GATEWAY)
        return caller


class Admission:
    """What a method requires of its callers: nothing, a valid token, or one of ROLE.

    A token that is sent must be valid in any case. If none is required, a caller with neither a token nor a certificate
    of a gateway is ANONYMOUS. With DECIDES, as for the methods that decide, a caller whose token was not looked up in
    time is UNDECIDED: for them that is no error.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        token_required: bool = True,
        role: Role | None = None,
        decides: bool = False,
        certificates: bool = False,
    ) -> None:
        self._authenticator = authenticator
        self._role = role
        self._decides = decides
        self.certificates = certificates
        """Whether certificates have to be read, because there are names of gateways."""
        self.token_required = token_required
        self.is_open = not (token_required or certificates)
        """Whether a call without a token is ANONYMOUS in any case."""

    async def admit(self, presented: Presented, deadline: float | None = None) -> Caller:
        """The caller that PRESENTED this and waits until DEADLINE (monotonic seconds, None: for any time).

        Raises Unauthenticated, PermissionDenied, Unavailable.
        """
        if presented.authorization is None and not presented.certificate and not self.token_required:
            return ANONYMOUS
        try:
            caller = await self._authenticator.authenticate(presented, deadline)
        except LookupDeferred:
            if self._decides:
                return UNDECIDED
            raise
        if self._role is not None:
            require(caller, self._role)
        return caller

    def recognise(self, authorization: bytes | None) -> Caller | None:
        """The caller with this header, None if it has none, where that is known without a lookup, and may call."""
        if authorization is None:
            return ANONYMOUS if self.is_open else None
        caller = self._authenticator.remembered(authorization)
        return None if caller is None or self._role not in {None, caller.role} else caller

    def share_of(self, presented: Presented) -> Share:
        """Whose share of the server a call uses, as far as that is known without a lookup."""
        return Share(self._authenticator.known(presented), presented.peer)

    @contextmanager
    def watching(self, presented: Presented) -> Iterator["asyncio.Future[None]"]:
        """A future for a stream of the caller that was admitted as it PRESENTED this, until the block ends.

        It is failed with Unauthenticated once the caller's token is no longer valid, at most TOKEN_TTL seconds later,
        and is done for no other reason. A stream costs nothing by it while it is idle.
        """
        revoked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not revoked.done():
                revoked.set_exception(_revoked())
                revoked.exception()  # marks it as retrieved: the stream may be ending already

        unwatch = self._authenticator.watch(presented, end)
        try:
            yield revoked
        finally:
            unwatch()


def decision_admission(authenticator: Authenticator, *, protect: bool, certificates: bool = False) -> Admission:
    """The admission of the methods that decide: with PROTECT, only of callers of role gateway.

    CERTIFICATES: whether there are certificates that give it, as a token does.
    """
    role = Role.GATEWAY if protect else None
    return Admission(authenticator, token_required=protect, role=role, decides=True, certificates=certificates)


def share_of(caller: Caller, connection: Hashable) -> Share:
    """Whose share of the server a call of this CALLER uses, who was admitted, on this CONNECTION."""
    return Share("" if caller.role is None else caller.name, connection)


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


def require_known(caller: Caller) -> None:
    """Raise Unavailable for a caller whose token was not looked up in time, of a call that can be repeated."""
    if caller is UNDECIDED:
        raise deferred_token()


def deferred_token() -> Unavailable:
    """The error of a call that can be repeated, whose caller's token was not looked up in time."""
    return Unavailable("the token was not looked up in time; send it again", reason="TOO_MANY_AT_ONCE", retry_after=1.0)


def _bearer(authorization: bytes | None) -> Token:
    """The token in a header, by its form alone. Raises Unauthenticated."""
    scheme, _, text = (authorization or b"").strip().partition(b" ")
    text = text.strip()
    if scheme.lower() != b"bearer" or not text:
        raise Unauthenticated(
            "no token was sent with the call; send the header `authorization: Bearer <token>`, with a token created by "
            "`ratelimit-service admin-tokens create`",
            reason="TOKEN_MISSING",
        )
    token = Token.parse(text.decode("ascii", "replace"))
    if token is None:
        raise _invalid()
    return token


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "the token is not known, or was revoked; make one with `ratelimit-service admin-tokens create`",
        reason="TOKEN_INVALID",
    )


def _revoked() -> Unauthenticated:
    return Unauthenticated(
        "the token with which the stream was opened was revoked; open it again with another", reason="TOKEN_INVALID"
    )
