"""From a header to a caller."""

import asyncio

import pytest

from ratelimit_service.api.authentication import GOOD_FOR, Authenticator, require
from ratelimit_service.errors import PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.tokens import ANONYMOUS, Caller, Role

ALICE = Caller("alice", Role.ADMIN)


class Tokens:
    """Tokens of a test: one is good until it is taken away, and the look-ups are counted."""

    def __init__(self) -> None:
        self.good = {"rlt_good": ALICE}
        self.away = False
        self.asked = 0

    async def authenticate(self, text: str, /) -> Caller:
        """Look it up."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("Postgres is away", reason="POLICY_STORE_UNAVAILABLE")
        if text not in self.good:
            raise Unauthenticated("the token is not known", reason="TOKEN_INVALID")
        return self.good[text]


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


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic rlt_good", "rlt_good"])
async def test_no_bearer_token_is_told_apart(authenticator: Authenticator, tokens: Tokens, header: str | None) -> None:
    """Without a bearer token the reason is TOKEN_MISSING, and nothing is looked up."""
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(header)
    assert caught.value.reason == "TOKEN_MISSING"
    assert tokens.asked == 0


@pytest.mark.parametrize("header", ["Bearer rlt_good", "bearer rlt_good", "BEARER   rlt_good "])
async def test_a_good_token_is_its_holder(authenticator: Authenticator, header: str) -> None:
    """The scheme's case and the spaces do not matter."""
    assert await authenticator.authenticate(header) == ALICE


async def test_a_bad_token_is_refused_each_time(authenticator: Authenticator, tokens: Tokens) -> None:
    """A token that is not good is not remembered, so one that becomes good works at once."""
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("Bearer rlt_new")
    tokens.good["rlt_new"] = ALICE
    assert await authenticator.authenticate("Bearer rlt_new") == ALICE


async def test_a_good_token_is_remembered_for_a_second(
    authenticator: Authenticator, tokens: Tokens, time: Time
) -> None:
    """Within GOOD_FOR it is looked up once; after it, again."""
    for _ in range(5):
        await authenticator.authenticate("Bearer rlt_good")
    assert tokens.asked == 1
    time.now += GOOD_FOR
    await authenticator.authenticate("Bearer rlt_good")
    assert tokens.asked == 2


async def test_a_revoked_token_ends_within_a_second(authenticator: Authenticator, tokens: Tokens, time: Time) -> None:
    """After GOOD_FOR a token that was taken away is refused, and stays refused when Postgres goes."""
    await authenticator.authenticate("Bearer rlt_good")
    del tokens.good["rlt_good"]
    time.now += GOOD_FOR
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("Bearer rlt_good")
    tokens.away = True
    with pytest.raises(Unavailable):
        await authenticator.authenticate("Bearer rlt_good")


async def test_a_good_token_outlives_postgres(authenticator: Authenticator, tokens: Tokens, time: Time) -> None:
    """While tokens cannot be looked up, one that was good goes on being good, and one never seen is UNAVAILABLE."""
    await authenticator.authenticate("Bearer rlt_good")
    tokens.away = True
    for _ in range(3):
        time.now += GOOD_FOR
        assert await authenticator.authenticate("Bearer rlt_good") == ALICE
    with pytest.raises(Unavailable):
        await authenticator.authenticate("Bearer rlt_other")


async def test_callers_who_wait_for_one_token_wait_together(authenticator: Authenticator, tokens: Tokens) -> None:
    """A hundred calls at once look the token up once, and one that is cancelled takes nobody with it."""
    calls = [asyncio.create_task(authenticator.authenticate("Bearer rlt_good")) for _ in range(100)]
    await asyncio.sleep(0)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [ALICE] * 99
    assert tokens.asked == 1


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


def test_nobody_has_no_role() -> None:
    """One who sent no token may do nothing that needs a role."""
    with pytest.raises(PermissionDenied):
        require(ANONYMOUS, Role.VIEWER)
