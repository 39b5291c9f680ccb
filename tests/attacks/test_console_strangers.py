"""Strangers at the console who make up cookies and tokens: neither Postgres nor the log has work by the request."""

import asyncio
import re
import secrets
import time
from collections import Counter
from contextlib import suppress

import pytest

from attacks.attacked import Target
from attacks.sizes import FULL
from console.browser import Browser
from ratelimit_service.management.tokens import Role, Token

SECONDS = 30.0 if FULL else 2.0
COOKIES_AT_ONCE = 40
TOKENS_AT_ONCE = 20
READS_PER_SECOND = 10


async def send(address: str, until: float) -> Counter[str]:
    """Send made-up cookies and made-up tokens until then. Returns the number of each."""
    sent: Counter[str] = Counter()
    host, port = address.split(":")

    async def cookies() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while time.monotonic() < until:
            cookie = f"cookie: ratelimit-session={secrets.token_urlsafe(32)}"
            writer.write(f"GET /console/keys HTTP/1.1\r\nhost: {address}\r\n{cookie}\r\n\r\n".encode())
            assert await status(reader) == 303
            sent["cookies"] += 1
        writer.close()

    async def tokens() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        as_page = f"origin: http://{address}\r\nsec-fetch-site: same-origin"
        while time.monotonic() < until:
            form = f"token={Token.generate()}"
            fields = f"content-type: application/x-www-form-urlencoded\r\ncontent-length: {len(form)}"
            head = f"POST /console/sign-in HTTP/1.1\r\nhost: {address}\r\n{as_page}\r\n{fields}\r\n\r\n"
            writer.write((head + form).encode())
            sent["tokens"] += 1
            with suppress(TimeoutError):  # an answer to a guess that waits is not waited for
                async with asyncio.timeout(until - time.monotonic()):
                    assert await status(reader) in {401, 429, 503}
        writer.close()

    senders = [cookies() for _ in range(COOKIES_AT_ONCE)] + [tokens() for _ in range(TOKENS_AT_ONCE)]
    await asyncio.gather(*senders)
    return sent


async def status(reader: asyncio.StreamReader) -> int:
    """Read a response, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", head)
    if length:
        await reader.readexactly(int(length[1]))
    else:
        assert b"\r\ntransfer-encoding: chunked" in head, head
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head.split()[1])


@pytest.mark.parametrize("target", ["grpcio"], indirect=True)
async def test_made_up_cookies_and_tokens(target: Target) -> None:
    """Both are read ten times a second at most; who is signed in, or signs in, is served; lines are few."""
    address = target.server.settings.operations_listen
    base = f"http://{address}/console"
    viewer = await asyncio.to_thread(Browser(base).sign_in, target.server.tokens[Role.VIEWER])
    before, began = target.watch.counters(), time.monotonic()
    strangers = asyncio.create_task(send(address, began + SECONDS))
    while time.monotonic() < began + SECONDS:
        assert (await asyncio.to_thread(viewer.get, "/keys")).status_code == 200
        await asyncio.sleep(0.2)
    admin = await asyncio.to_thread(Browser(base).sign_in, target.server.tokens[Role.ADMIN])
    assert await asyncio.to_thread(lambda: admin.is_signed_in)
    sent = await strangers
    for browser in (viewer, admin):
        browser.client.close()
    seconds = time.monotonic() - began
    done = target.watch.counters().since(before).statements
    bound = (READS_PER_SECOND + 2) * seconds + 20  # with those of who is signed in
    sessions = sum(calls for query, calls in done.items() if "FROM console_sessions" in query)
    tokens = sum(calls for query, calls in done.items() if "FROM admin_tokens" in query)
    assert sent["cookies"] > 2 * bound, (sent, seconds)
    assert sessions <= bound, (sessions, sent, seconds)
    assert tokens <= 2 * bound, (tokens, sent, seconds)
    assert target.server.output.count("sign-in with a wrong token") <= seconds + 2
