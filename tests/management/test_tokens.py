"""Tokens of callers, on a real Postgres."""

import psycopg
import pytest

from fixtures.control_plane import ControlPlane
from ratelimit_service.errors import InvalidArgument, Unauthenticated
from ratelimit_service.management.audit import AuditFilter
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller, Role, Token
from ratelimit_service.postgres.token_source import PostgresTokenSource


@pytest.mark.parametrize("role", list(Role))
async def test_a_token_authenticates_its_holder(control_plane: ControlPlane, role: Role) -> None:
    """A token that was made authenticates its holder, by name and role."""
    text = await control_plane.tokens.create("console", role)

    assert await control_plane.tokens.authenticate(text) == Caller("console", role)


async def test_a_token_is_stored_as_a_hash_only(control_plane: ControlPlane, database_url: str) -> None:
    """Neither the tokens' table nor the audit log holds the secret of a token."""
    token = Token.parse(await control_plane.tokens.create("console", Role.ADMIN))
    assert token is not None

    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT t::text FROM admin_tokens t").fetchall()
        rows += connection.execute("SELECT t::text FROM audit_events t").fetchall()
    assert token.token_id in str(rows)
    assert token.secret not in str(rows)
    assert token.secret.encode().hex() not in str(rows)


async def test_a_wrong_token_is_refused(control_plane: ControlPlane) -> None:
    """A malformed token, an unknown one, and a known id with another secret are refused alike."""
    text = await control_plane.tokens.create("console", Role.ADMIN)
    other = Token.generate()

    for wrong in ("", "rlt_", text[:-1], text + "x", str(other), text[:17] + other.secret, text.replace("rlt", "rlk")):
        with pytest.raises(Unauthenticated) as caught:
            await control_plane.tokens.authenticate(wrong)
        assert caught.value.reason == "TOKEN_INVALID"
        assert other.secret not in caught.value.message


async def test_a_revoked_token_is_refused(control_plane: ControlPlane) -> None:
    """A token that was revoked is no longer valid, and its name can be used again."""
    old = await control_plane.tokens.create("console", Role.ADMIN)
    await control_plane.tokens.revoke("console")
    new = await control_plane.tokens.create("console", Role.VIEWER)

    with pytest.raises(Unauthenticated):
        await control_plane.tokens.authenticate(old)
    assert (await control_plane.tokens.authenticate(new)).role is Role.VIEWER


async def test_a_name_is_used_once(control_plane: ControlPlane) -> None:
    """A name that a valid token has is refused, and so is one that is malformed or the command line's own."""
    await control_plane.tokens.create("console", Role.ADMIN)

    for name in ("console", "", "A B", "x" * 65, "cli", " ci", "ci\u200b"):
        with pytest.raises(InvalidArgument, match="name"):
            await control_plane.tokens.create(name, Role.ADMIN)


async def test_an_unknown_name_cannot_be_revoked(control_plane: ControlPlane) -> None:
    """Revoking a name that no token has, has no longer, or can have, is an invalid argument."""
    await control_plane.tokens.create("console", Role.ADMIN)
    await control_plane.tokens.revoke("console")

    for name in ("console", "unknown", "\0"):
        with pytest.raises(InvalidArgument, match="name"):
            await control_plane.tokens.revoke(name)


async def test_any_counts_valid_tokens_only(control_plane: ControlPlane) -> None:
    """There is a token after the first is made, and none after it was revoked."""
    assert not await control_plane.tokens.any()
    await control_plane.tokens.create("console", Role.ADMIN)
    assert await control_plane.tokens.any()
    await control_plane.tokens.revoke("console")
    assert not await control_plane.tokens.any()


async def test_tokens_are_listed_by_name(control_plane: ControlPlane) -> None:
    """The list has every token with its role, revoked ones included."""
    await control_plane.tokens.create("b", Role.GATEWAY)
    await control_plane.tokens.create("a", Role.VIEWER)
    await control_plane.tokens.revoke("b")

    listed = await control_plane.tokens.list()

    assert [(token.name, token.role, token.revoked_us is None) for token in listed] == [
        ("a", Role.VIEWER, True),
        ("b", Role.GATEWAY, False),
    ]


async def test_making_and_revoking_is_recorded(control_plane: ControlPlane) -> None:
    """Tokens that come and go are in the audit log, with the command line as the actor."""
    await control_plane.tokens.create("console", Role.ADMIN)
    await control_plane.tokens.revoke("console")

    page = await control_plane.audit.list(Paging(), AuditFilter(target="tokens/console"))
    events = [recorded.event for recorded in page.items]

    assert [(event.actor, event.action) for event in events] == [("cli", "token.revoke"), ("cli", "token.create")]
    assert events[1].detail == {"role": "admin"}


def test_a_token_hides_its_secret() -> None:
    """The repr of a token, which ends up in logs, does not hold its secret; its text does, with 190 random bits."""
    token = Token.generate()

    assert token.secret not in repr(token)
    assert Token.parse(str(token)) == token
    assert len(token.secret) == 32


async def test_every_token_can_be_listed_and_revoked(control_plane: ControlPlane, database_url: str) -> None:
    """A row that was written past the service, with a time that is none, hides neither itself nor others."""
    await control_plane.tokens.create("ada", Role.ADMIN)
    text = str(token := Token.generate())
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO admin_tokens (token_id, name, role, digest, create_time) VALUES (%s, 'eve', 'admin', %s,"
            " '-infinity')",
            [token.token_id, token.digest()],
        )

    assert (await control_plane.tokens.authenticate(text)).name == "eve"
    assert [stored.name for stored in await control_plane.tokens.list()] == ["ada", "eve"]
    await control_plane.tokens.revoke("eve")
    with pytest.raises(Unauthenticated):
        await control_plane.tokens.authenticate(text)


async def test_no_row_keeps_tokens_from_being_read(control_plane: ControlPlane, database_url: str) -> None:
    """One with megabytes in it is reported, and read no further: else no revoked token would be noticed any more."""
    await control_plane.tokens.create("ada", Role.ADMIN)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO admin_tokens (token_id, name, role, digest, create_time)"
            " VALUES ('eve', 'eve', 'admin', convert_to(repeat('x', 60000000), 'UTF8'), now())"
        )
    source = PostgresTokenSource(database_url)

    table = await source.read(None)

    assert table is not None
    assert [stored.name for stored in table.tokens.values()] == ["ada"]
    await control_plane.tokens.revoke("eve")
    await source.close()
