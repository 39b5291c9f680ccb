"""Everything that a page received and showed, to be searched for what may be nowhere."""

import asyncio
import base64
from collections.abc import Iterable

import psycopg
from playwright.async_api import Error, Page, Response

_DIGESTS = (
    "SELECT digest FROM key_secrets UNION ALL SELECT digest FROM admin_tokens"
    " UNION ALL SELECT digest FROM console_sessions"
)


class Record:
    """The documents that a page receives, and what it shows whenever `take` is called."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._texts: list[tuple[str, str]] = []
        self._reading: set[asyncio.Task[None]] = set()
        page.on("response", self._on_response)

    async def take(self) -> None:
        """Record what the page shows now: its HTML with what scripts made of it, and its text."""
        for text in (await self._page.content(), await self._page.locator("body").inner_text()):
            self._texts.append((self._page.url, text))

    async def where(self, secrets: Iterable[str]) -> list[tuple[str, int]]:
        """The addresses at which something recorded has one of SECRETS, each with the secret's number among them."""
        await asyncio.gather(*self._reading)
        assert self._texts
        numbered = list(enumerate(secrets))
        return [(url, number) for url, text in self._texts for number, secret in numbered if secret in text]

    def _on_response(self, response: Response) -> None:
        if "text/html" in response.headers.get("content-type", "") and not 300 <= response.status < 400:
            task = asyncio.ensure_future(self._read(response))
            self._reading.add(task)

    async def _read(self, response: Response) -> None:
        try:
            self._texts.append((response.url, await response.text()))
        except Error:  # the page was left meanwhile; what it showed was taken
            return


def stored_hashes(database_url: str) -> list[str]:
    """The hashes of all secrets, tokens and sessions, as a page might write them."""
    with psycopg.connect(database_url) as connection:
        digests = [bytes(digest) for (digest,) in connection.execute(_DIGESTS)]
    return [text for digest in digests for text in (digest.hex(), base64.b64encode(digest).decode())]
