"""Making, revoking and checking the tokens of callers. Each method is one transaction."""

from collections.abc import Sequence

from ratelimit_service.decision.limit import NAME
from ratelimit_service.decision.ports import Clock
from ratelimit_service.errors import InvalidArgument, Unauthenticated
from ratelimit_service.keys.audit import Event
from ratelimit_service.keys.caller import LOCAL, Caller, Role
from ratelimit_service.keys.ports import Transactions
from ratelimit_service.keys.token import StoredToken, Token


class TokenService:
    """Manages tokens, for whoever is at the server's own machine: no RPC leads here but that of `authenticate`.

    Every method raises Unavailable when Postgres is away.
    """

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def create(self, name: str, role: Role) -> str:
        """Make a token and return it in full, which nobody can get again.

        The name shows up as the actor in audit events. Raises InvalidArgument (field `name`) when it is malformed or a
        token that is good has it.
        """
        if not NAME.fullmatch(name) or name == LOCAL.name:
            raise InvalidArgument.of(
                "name",
                f"is {name[:80]!r}; use 1 to 64 of a-z 0-9 _ - ., begin with a letter or digit, and leave "
                f"{LOCAL.name!r} to the command line itself",
            )
        now_us = self._clock.now_us()
        token = Token.generate()
        async with self._transactions.writing() as work:
            if await work.tokens.get_named(name) is not None:
                raise InvalidArgument.of("name", f"is {name!r}, which a token has already; revoke it or choose another")
            await work.tokens.add(StoredToken(token.token_id, name, role, token.digest(), now_us))
            await work.record(Event(LOCAL.name, "token.create", f"tokens/{name}", {"role": role.value}, now_us))
        return str(token)

    async def revoke(self, name: str) -> None:
        """End a token. Raises InvalidArgument (field `name`) when no token that is good has this name."""
        now_us = self._clock.now_us()
        async with self._transactions.writing() as work:
            token = await work.tokens.get_named(name) if NAME.fullmatch(name) else None
            if token is None:
                raise InvalidArgument.of("name", f"is {name[:80]!r}, which no token has; list them to see their names")
            await work.tokens.revoke(token.token_id, now_us)
            await work.record(Event(LOCAL.name, "token.revoke", f"tokens/{name}", {}, now_us))

    async def list(self) -> Sequence[StoredToken]:
        """Read all tokens in the order of their names, revoked ones included."""
        async with self._transactions.reading() as work:
            return await work.tokens.list()

    async def authenticate(self, text: str) -> Caller:
        """Return whose token this is. Raises Unauthenticated when it is malformed, unknown or revoked."""
        token = Token.parse(text)
        stored = None
        if token is not None:
            async with self._transactions.reading() as work:
                stored = await work.tokens.get(token.token_id)
        if token is None or stored is None or not stored.is_good_for(token):
            raise Unauthenticated(
                "the token is not known, or was revoked; make one with `ratelimit-service admin-tokens create`",
                reason="TOKEN_INVALID",
            )
        return stored.holder

    async def any(self) -> bool:
        """Whether there is a token that is good."""
        async with self._transactions.reading() as work:
            return await work.tokens.any()
