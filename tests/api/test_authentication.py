"""From a header to a caller."""

import asyncio

import pytest

from ratelimit_service.api.authentication import TOKEN_TTL, Admission, Authenticator, decision_admission, require
from ratelimit_service.api.presented import Presented
from ratelimit_service.errors import PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

ALICE = Caller("alice", Role.ADMIN)


class Tokens:
    """Tokens of a test: one is valid until it is removed, and lookups are counted."""

    def __init__(self) -> None:
        self.valid = {"rlt_valid": ALICE}
        self.down = False
        self.lookups = 0

    async def authenticate(self, text: str, /) -> Caller:
        """Look it up."""
        self.lookups += 1
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("Postgres is down", reason="POLICY_STORE_UNAVAILABLE")
        if text not in self.valid:
            raise Unauthenticated("the token is not known", reason="TOKEN_INVALID")
        return self.valid[text]


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tokens() -> Tokens:
    """The tokens."""
    return Tokens()


@pytest.fixture
def time() -> Time:
    """The clock."""
    return Time()


@pytest.fixture
def authenticator(tokens: Tokens, time: Time) -> Authenticator:
    """An authenticator of these tokens by this clock."""
    return Authenticator(tokens, time)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic rlt_valid", "rlt_valid"])
async def test_a_missing_token_has_its_own_reason(
    authenticator: Authenticator, tokens: Tokens, header: str | None
) -> None:
    """Without a bearer token the reason is TOKEN_MISSING, and nothing is looked up."""
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(header)
    assert caught.value.reason == "TOKEN_MISSING"
    assert tokens.lookups == 0


@pytest.mark.parametrize("header", ["Bearer rlt_valid", "bearer rlt_valid", "BEARER   rlt_valid "])
async def test_a_valid_token_is_its_holder(authenticator: Authenticator, header: str) -> None:
    """The scheme's case and the spaces do not matter."""
    assert await authenticator.authenticate(header) == ALICE


async def test_an_invalid_token_is_not_cached(authenticator: Authenticator, tokens: Tokens) -> None:
    """An invalid token is rejected each time, so one that becomes valid works at once."""
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("Bearer rlt_new")
    tokens.valid["rlt_new"] = ALICE
    assert await authenticator.authenticate("Bearer rlt_new") == ALICE


async def test_a_valid_token_is_cached_for_a_second(authenticator: Authenticator, tokens: Tokens, time: Time) -> None:
    """Within TOKEN_TTL it is looked up once; after it, again."""
    for _ in range(5):
        await authenticator.authenticate("Bearer rlt_valid")
    assert tokens.lookups == 1
    time.now += TOKEN_TTL
    await authenticator.authenticate("Bearer rlt_valid")
    assert tokens.lookups == 2


async def test_a_revoked_token_ends_within_a_second(authenticator: Authenticator, tokens: Tokens, time: Time) -> None:
    """After TOKEN_TTL a token that was removed is rejected, and stays so when Postgres is down."""
    await authenticator.authenticate("Bearer rlt_valid")
    del tokens.valid["rlt_valid"]
    time.now += TOKEN_TTL
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("Bearer rlt_valid")
    tokens.down = True
    with pytest.raises(Unavailable):
        await authenticator.authenticate("Bearer rlt_valid")


async def test_a_valid_token_outlives_postgres(authenticator: Authenticator, tokens: Tokens, time: Time) -> None:
    """While tokens cannot be looked up, one that was valid stays valid, and one never seen is UNAVAILABLE."""
    await authenticator.authenticate("Bearer rlt_valid")
    tokens.down = True
    for _ in range(3):
        time.now += TOKEN_TTL
        assert await authenticator.authenticate("Bearer rlt_valid") == ALICE
    with pytest.raises(Unavailable):
        await authenticator.authenticate("Bearer rlt_other")


async def test_calls_with_one_token_share_a_lookup(authenticator: Authenticator, tokens: Tokens) -> None:
    """A hundred calls at once look the token up once, and one that is cancelled cancels no other."""
    calls = [asyncio.create_task(authenticator.authenticate("Bearer rlt_valid")) for _ in range(100)]
    await asyncio.sleep(0)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [ALICE] * 99
    assert tokens.lookups == 1


async def test_cached_tokens_are_bounded(authenticator: Authenticator, tokens: Tokens) -> None:
    """Of more valid tokens than are cached the newest stay, and the oldest is looked up again."""
    names = [f"rlt_{number}" for number in range(2_000)]
    tokens.valid.update(dict.fromkeys(names, ALICE))
    for name in (*names, names[-1]):
        await authenticator.authenticate(f"Bearer {name}")
    assert tokens.lookups == len(names)
    await authenticator.authenticate(f"Bearer {names[0]}")
    assert tokens.lookups == len(names) + 1


async def test_admission(authenticator: Authenticator, tokens: Tokens) -> None:
    """A method is open, needs any valid token, or one of a role; a token that is sent must be valid in any case."""
    tokens.valid["rlt_gateway"] = edge = Caller("edge", Role.GATEWAY)
    admin, gateway, unknown = b"Bearer rlt_valid", b"Bearer rlt_gateway", b"Bearer rlt_\xff"
    for admission, expected in (
        (decision_admission(authenticator, protect=False), (ANONYMOUS, ALICE, edge, Unauthenticated)),
        (decision_admission(authenticator, protect=True), (Unauthenticated, PermissionDenied, edge, Unauthenticated)),
        (Admission(authenticator), (Unauthenticated, ALICE, edge, Unauthenticated)),
    ):
        for authorization, caller in zip((None, admin, gateway, unknown), expected, strict=True):
            if isinstance(caller, Caller):
                assert await admission.admit(Presented(authorization)) == caller
            else:
                with pytest.raises(caller):
                    await admission.admit(Presented(authorization))


@pytest.mark.parametrize(
    ("role", "needed", "allowed"),
    [
        (Role.ADMIN, Role.ADMIN, True),
        (Role.ADMIN, Role.VIEWER, True),
        (Role.ADMIN, Role.GATEWAY, False),
        (Role.VIEWER, Role.VIEWER, True),
        (Role.VIEWER, Role.ADMIN, False),
        (Role.VIEWER, Role.GATEWAY, False),
        (Role.GATEWAY, Role.GATEWAY, True),
        (Role.GATEWAY, Role.VIEWER, False),
        (Role.GATEWAY, Role.ADMIN, False),
    ],
)
def test_roles(role: Role, needed: Role, allowed: bool) -> None:
    """An admin may do what a viewer may; a gateway is apart."""
    if allowed:
        require(Caller("x", role), needed)
        return
    with pytest.raises(PermissionDenied) as caught:
        require(Caller("x", role), needed)
    assert caught.value.metadata == {"role": role.value, "needed": needed.value}


def test_an_anonymous_caller_has_no_role() -> None:
    """A caller without a token may do nothing that needs a role."""
    with pytest.raises(PermissionDenied):
        require(ANONYMOUS, Role.VIEWER)
