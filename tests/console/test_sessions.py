"""Signing in and out: the cookie, what ends a session, and the pace of guessing."""

import re
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from starlette.responses import StreamingResponse

from console.browser import Browser
from console.conftest import Browse, Manage
from fixtures.dev_server import free_address
from fixtures.served import Serve, Server
from ratelimit_service.api.guessing import (
    FREE,
    MAX_ADDRESSES,
    MAX_DELAY,
    MAX_WAITING_HERE,
    GuessLimiter,
    network_of,
)
from ratelimit_service.console.live import live
from ratelimit_service.console.security.streams import MAX_STREAMS, MAX_STREAMS_HERE, MAX_STREAMS_OF_TOKEN, Streams
from ratelimit_service.console.visit import Visit
from ratelimit_service.errors import Unavailable
from ratelimit_service.management.sessions import MAX_SESSIONS
from ratelimit_service.management.tokens import Role, Token
from server.certificates import Authority

WRONG = "rlt_AAAAAAAAAAAA_" + "B" * 32


def test_the_cookie_is_out_of_reach(anyone: Browser, server: Server) -> None:
    """The session's cookie cannot be read by scripts, is not sent from other sites, and only to the console."""
    answer = anyone.post("/sign-in", {"token": server.tokens[Role.ADMIN]})
    cookie = answer.headers.get_list("set-cookie")[0]
    assert re.search(r"; HttpOnly(;|$)", cookie)
    assert re.search(r"; SameSite=strict(;|$)", cookie)
    assert re.search(r"; Path=/console(;|$)", cookie)
    assert re.search(r"; Max-Age=43200(;|$)", cookie)
    assert "domain" not in cookie.lower()
    assert len(anyone.session_cookie) >= 43  # 256 bits


def test_a_session_gets_a_new_value(browse: Browse, server: Server) -> None:
    """A value that was planted in the browser before signing in opens nothing afterwards."""
    planted = "planted-by-somebody-else"
    answer = browse(planted).post("/sign-in", {"token": server.tokens[Role.VIEWER]})
    assert answer.status_code == 303
    assert planted not in answer.headers["set-cookie"]
    assert not browse(planted).is_signed_in


def test_signing_in_again_ends_the_session_before(viewer: Browser, browse: Browse, server: Server) -> None:
    """The session that a browser had is closed when it signs in anew, and has another value."""
    before = browse(viewer.session_cookie)
    first = viewer.session_cookie
    viewer.sign_in(server.tokens[Role.ADMIN])
    assert viewer.session_cookie != first
    assert not before.is_signed_in


def test_a_copied_cookie_ends_with_the_session(viewer: Browser, browse: Browse) -> None:
    """After signing out, a copy of the cookie opens no page."""
    copy = browse(viewer.session_cookie)
    assert copy.is_signed_in
    answer = viewer.submit("/sign-out")
    assert answer.headers["location"].endswith("/console/sign-in")
    assert not copy.is_signed_in


def test_signing_out_ends_the_session_on_every_server(viewer: Browser, manage: Manage[None]) -> None:
    """A session that another server closed is over within a second or so."""
    assert viewer.is_signed_in
    manage(lambda services: services.sessions.close(viewer.session_cookie))
    soon(lambda: not viewer.is_signed_in)


def test_revoking_the_token_ends_its_sessions(anyone: Browser, manage: Manage[str]) -> None:
    """The sessions of a token end with it, within a second or so."""
    token = manage(lambda services: services.tokens.create("leaver", Role.ADMIN))
    anyone.sign_in(token)
    assert anyone.is_signed_in
    manage(lambda services: services.tokens.revoke("leaver"))
    soon(lambda: not anyone.is_signed_in)


def test_only_so_many_sessions_of_a_token_stay_open(anyone: Browser, browse: Browse, manage: Manage[str]) -> None:
    """Beyond a hundred the oldest session of a token is closed; those of other tokens are left alone."""
    other = manage(lambda services: services.tokens.create("other", Role.VIEWER))
    token = manage(lambda services: services.tokens.create("many", Role.VIEWER))
    first_of_other = browse().sign_in(other)
    first = browse().sign_in(token)
    second = browse().sign_in(token)
    for _ in range(MAX_SESSIONS - 1):
        anyone.client.cookies.clear()
        anyone.sign_in(token)
    soon(lambda: not first.is_signed_in)
    assert all(browser.is_signed_in for browser in (second, anyone, first_of_other))


def test_a_gateway_cannot_sign_in(anyone: Browser, server: Server) -> None:
    """A gateway's token opens no session."""
    answer = anyone.post("/sign-in", {"token": server.tokens[Role.GATEWAY]})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_unknown_and_revoked_tokens_get_one_answer(anyone: Browser, manage: Manage[str]) -> None:
    """Nobody learns from the answer whether a token exists: unknown, malformed, wrong and revoked ones look alike."""
    revoked = manage(lambda services: services.tokens.create("gone", Role.ADMIN))
    manage(lambda services: services.tokens.revoke("gone"))
    wrong_secret = str(Token(Token.parse(revoked).token_id, "C" * 32))  # type: ignore[union-attr]
    answers = [anyone.post("/sign-in", {"token": token}) for token in (WRONG, "nonsense", wrong_secret, revoked)]
    shown = {(answer.status_code, re.sub("r-[0-9a-f]{8}", "", answer.text)) for answer in answers}
    assert len(shown) == 1
    assert shown.pop()[0] == 401


def test_guessing_waits_and_a_good_token_does_not(browse: Browse, server: Server, viewer: Browser) -> None:
    """Wrong tokens of an address are answered later and later; its good ones and open sessions are not."""
    guesser, other = browse(), browse()

    def seconds(work: Callable[[], object]) -> float:
        start = time.monotonic()
        work()
        return time.monotonic() - start

    waits = [0.0]
    while max(waits) < 1 and len(waits) < FREE + 5:
        waits.append(seconds(lambda: guesser.post("/sign-in", {"token": WRONG})))
    assert max(waits) > 1
    assert seconds(lambda: other.sign_in(server.tokens[Role.VIEWER])) < 0.5
    assert seconds(lambda: viewer.get("/keys")) < 0.5


async def test_many_guesses_at_once_wait_no_more() -> None:
    """A few answers of an address wait, the others are refused at once: waiting answers are not piled up."""
    slept: list[float] = []
    limiter: GuessLimiter

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) <= MAX_WAITING_HERE:  # while this one waits, the next comes
            outcomes.append(await limiter.wrong("192.0.2.1"))

    outcomes: list[int] = []
    limiter = GuessLimiter(now=lambda: 0.0, sleep=sleep)
    for _ in range(FREE + 1):
        await limiter.wrong("192.0.2.1")
    assert max(outcomes) >= 1
    assert len(slept) == MAX_WAITING_HERE
    assert max(slept) <= MAX_DELAY


async def test_guessing_is_forgotten_and_bounded() -> None:
    """A pause ends the wait, and addresses take a bounded memory."""
    now, slept = [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    limiter = GuessLimiter(now=lambda: now[0], sleep=sleep)
    for _ in range(FREE + 2):
        await limiter.wrong("192.0.2.1")
    assert len(slept) == 2
    now[0] = 601.0
    await limiter.wrong("192.0.2.1")
    assert len(slept) == 2
    for number in range(MAX_ADDRESSES + 10):
        await limiter.wrong(f"10.0.{number // 256}.{number % 256}")
    assert limiter.remembered == MAX_ADDRESSES


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_one_network_is_one_address(peer: str, network: str) -> None:
    """An IPv6 network cannot guess from each of its addresses anew."""
    assert network_of(peer) == network


def soon(happens: Callable[[], bool]) -> None:
    """Return once something happens, within a few seconds."""
    deadline = time.monotonic() + 5
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_under_tls_the_cookie_is_secure(serve: Serve, tmp_path: Path) -> None:
    """Under TLS the cookie is sent by TLS only, and its name keeps other hosts and paths from setting it."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    server = serve("grpcio", operations_listen=free_address(), tls_certificate=pair.certificate, tls_key=pair.key)
    browser = Browser(
        f"https://{server.settings.operations_listen}/console", ssl.create_default_context(cafile=authority.certificate)
    )
    try:
        answer = browser.post("/sign-in", {"token": server.tokens[Role.ADMIN]})
        cookie = answer.headers.get_list("set-cookie")[0]
        assert cookie.startswith("__Host-ratelimit-session=")
        assert re.search(r"; Secure(;|$)", cookie)
        assert re.search(r"; HttpOnly(;|$)", cookie)
        assert re.search(r"; Path=/(;|$)", cookie)
        assert browser.is_signed_in
        weak = {"cookie": f"ratelimit-session={browser.session_cookie}"}
        assert httpx.get(f"{browser.base}/keys", headers=weak, verify=browser.verify).status_code == 303
    finally:
        browser.client.close()
        server.close()


def test_a_viewer_hears_once_what_they_are(browse: Browse, server: Server) -> None:
    """The first page after signing in says what a viewer may do, and no page after it."""
    viewer = browse().sign_in(server.tokens[Role.VIEWER])
    assert "change nothing" in viewer.get("/keys").text
    assert "change nothing" not in viewer.get("/keys").text
    assert "change nothing" not in browse().sign_in(server.tokens[Role.ADMIN]).get("/keys").text


def test_streams_are_bounded() -> None:
    """A session, a token, and the server, have a bounded number of streams; those that ended do not count."""
    streams = Streams()
    with ExitStack() as open_streams:
        for _ in range(MAX_STREAMS_HERE):
            streams.check("one", "token")
            open_streams.enter_context(streams.count("one", "token"))
        with pytest.raises(Unavailable):
            streams.check("one", "token")
        for number in range(MAX_STREAMS_OF_TOKEN - MAX_STREAMS_HERE):
            streams.check(f"session {number}", "token")
            open_streams.enter_context(streams.count(f"session {number}", "token"))
        with pytest.raises(Unavailable):
            streams.check("another", "token")
        streams.check("another", "another token")
        for number in range(MAX_STREAMS - MAX_STREAMS_OF_TOKEN):
            open_streams.enter_context(streams.count(f"session {number}", f"token {number}"))
        with pytest.raises(Unavailable):
            streams.check("another", "another token")
    streams.check("one", "token")


async def test_streams_that_come_at_once_are_bounded() -> None:
    """Streams that were all asked for before the first of them began are bounded too."""

    async def found(_session_value: str) -> object:
        return object()

    async def read() -> dict[str, str]:
        return {"part": "html"}

    console = SimpleNamespace(streams=Streams(), sessions=SimpleNamespace(get=found))
    visit = cast(
        Visit, SimpleNamespace(console=console, session_value="one", token_id="token", render=lambda _template: "")
    )
    answers = [live(visit, read, seconds=60) for _ in range(2 * MAX_STREAMS_HERE)]
    events = [cast(AsyncGenerator[str, None], cast(StreamingResponse, answer).body_iterator) for answer in answers]
    begun = [await anext(stream, None) for stream in events]
    assert sum(event is not None for event in begun) == MAX_STREAMS_HERE
    for stream in events:
        await stream.aclose()
