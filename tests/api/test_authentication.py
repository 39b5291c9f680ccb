"""From what a call presents to a caller."""

import asyncio

import pytest

from api.tokens import Source, Time, bearer
from ratelimit_service.api.authentication import (
    MAX_AUTHORIZATION,
    Admission,
    Authenticator,
    decision_admission,
    require,
)
from ratelimit_service.api.presented import Presented
from ratelimit_service.errors import LookupDeferred, PermissionDenied, Unauthenticated, Unavailable
from ratelimit_service.management.known_tokens import TOKEN_TTL, KnownTokens
from ratelimit_service.management.tokens import ANONYMOUS, UNDECIDED, Caller, Role, Token

ALICE = Caller("alice", Role.ADMIN)


@pytest.fixture
def source() -> Source:
    """The stored tokens."""
    return Source()


@pytest.fixture
def time() -> Time:
    """The clock."""
    return Time()


@pytest.fixture
def authenticator(source: Source, time: Time) -> Authenticator:
    """An authenticator of these tokens by this clock."""
    return Authenticator(KnownTokens(source, time))


async def identify(authenticator: Authenticator, authorization: str | bytes | None) -> Caller:
    """The caller that sends this header."""
    return await authenticator.authenticate(Presented(authorization, ("192.0.2.1", 1)))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic {}", "{}"])
async def test_a_missing_token_has_its_own_reason(
    authenticator: Authenticator, source: Source, header: str | None
) -> None:
    """Without a bearer token the reason is TOKEN_MISSING, and nothing is looked up."""
    with pytest.raises(Unauthenticated) as caught:
        await identify(authenticator, header and header.format(source.make()))
    assert caught.value.reason == "TOKEN_MISSING"
    assert source.reads == 0


@pytest.mark.parametrize(
    "header",
    [
        "Bearer x",
        "Bearer rlt_0123456789ab_short",
        b"Bearer rlt_\xff",
        "Bearer {},Bearer {}",
        "Bearer {}".ljust(MAX_AUTHORIZATION + 1),
        "Bearer " + "x" * 100_000,
    ],
)
async def test_what_is_no_token_costs_no_read(
    authenticator: Authenticator, source: Source, header: str | bytes
) -> None:
    """A header that is too long, several at once, or of another form is refused by its form alone."""
    token = source.make()
    with pytest.raises(Unauthenticated) as caught:
        await identify(authenticator, header.format(token, token) if isinstance(header, str) else header)
    assert caught.value.reason == "TOKEN_INVALID"
    assert source.reads == 0


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER   {} "])
async def test_a_valid_token_is_its_holder(authenticator: Authenticator, source: Source, header: str) -> None:
    """The scheme's case and the spaces do not matter, and the header may be text or bytes."""
    text = header.format(source.make())
    assert await identify(authenticator, text) == ALICE
    assert await identify(authenticator, text.encode()) == ALICE


async def test_a_wrong_secret_is_refused_without_a_read(authenticator: Authenticator, source: Source) -> None:
    """Whoever knows the id of a token, which is in logs, can guess at its secret without reaching Postgres."""
    token = source.make()
    await identify(authenticator, bearer(token))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await identify(authenticator, bearer(Token(token.token_id, Token.generate().secret)))
    assert source.reads == 1


async def test_a_new_token_works_at_once(authenticator: Authenticator, source: Source) -> None:
    """A token that was made after the last read is found by the next one."""
    await identify(authenticator, bearer(source.make()))
    assert await identify(authenticator, bearer(source.make("bob"))) == Caller("bob", Role.ADMIN)


async def test_a_revoked_token_ends_within_a_second(authenticator: Authenticator, source: Source, time: Time) -> None:
    """After TOKEN_TTL a token that was removed is rejected, and stays so when Postgres is down."""
    token = source.make()
    await identify(authenticator, bearer(token))
    source.revoke(token)
    time.now += TOKEN_TTL
    with pytest.raises(Unauthenticated):
        await identify(authenticator, bearer(token))
    source.away = True
    time.now += 10
    with pytest.raises(Unavailable):
        await identify(authenticator, bearer(token))


async def test_a_valid_token_outlives_postgres(authenticator: Authenticator, source: Source, time: Time) -> None:
    """While tokens cannot be looked up, one that was valid stays valid, and one never seen is UNAVAILABLE."""
    token = source.make()
    await identify(authenticator, bearer(token))
    source.away = True
    for _ in range(3):
        time.now += TOKEN_TTL
        assert await identify(authenticator, bearer(token)) == ALICE
    with pytest.raises(Unavailable):
        await identify(authenticator, bearer(Token.generate()))


async def test_admission(authenticator: Authenticator, source: Source) -> None:
    """A method is open, needs any valid token, or one of a role; a token that is sent must be valid in any case."""
    edge = Caller("edge", Role.GATEWAY)
    admin, gateway = bearer(source.make()).encode(), bearer(source.make("edge", Role.GATEWAY)).encode()
    unknown = b"Bearer rlt_\xff"
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


async def test_a_listed_certificate_is_a_gateway(authenticator: Authenticator, source: Source) -> None:
    """A certificate of a gateway stands for a token of that role, and a token that is sent takes its place."""
    name = "gateway.example.com"
    for admission in (Admission(authenticator), decision_admission(authenticator, protect=True)):
        assert await admission.admit(Presented(certificate=name)) == Caller(name, Role.GATEWAY)
        with pytest.raises(Unauthenticated):
            await admission.admit(Presented(bearer(Token.generate()), certificate=name))
    token = bearer(source.make())
    assert await Admission(authenticator).admit(Presented(token, certificate=name)) == ALICE


async def test_a_token_whose_turn_does_not_come(authenticator: Authenticator, source: Source) -> None:
    """It is UNDECIDED for the methods that decide, and an error for the others."""
    source.seconds = 0.3
    deadline = asyncio.get_running_loop().time() + 0.02
    presented = Presented(bearer(source.make("edge", Role.GATEWAY)))
    assert await decision_admission(authenticator, protect=True).admit(presented, deadline) is UNDECIDED
    with pytest.raises(LookupDeferred):
        await Admission(authenticator).admit(presented, deadline)
    assert (await decision_admission(authenticator, protect=True).admit(presented)).name == "edge"


async def test_a_stream_learns_of_a_revocation(source: Source) -> None:
    """What watches a caller's token fails within TOKEN_TTL after it was revoked; another token's does not."""
    authenticator = Authenticator(KnownTokens(source))
    admission = decision_admission(authenticator, protect=False)
    revoked, kept = source.make("one"), source.make("other")
    one, other = Presented(bearer(revoked)), Presented(bearer(kept).encode())
    for presented in (one, other):
        await admission.admit(presented)
    with (
        admission.watching(one) as ended,
        admission.watching(other) as goes_on,
        admission.watching(Presented()) as open_,
    ):
        await asyncio.sleep(0.7)
        assert not ended.done()
        source.revoke(revoked)
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(ended, TOKEN_TTL)
        assert not goes_on.done()
        assert not open_.done()
    assert source.reads < 10


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


@pytest.mark.parametrize("caller", [ANONYMOUS, UNDECIDED])
def test_a_caller_without_a_known_token_has_no_role(caller: Caller) -> None:
    """A caller without a token, or with one that was not looked up, may do nothing that needs a role."""
    with pytest.raises(PermissionDenied):
        require(caller, Role.VIEWER)
