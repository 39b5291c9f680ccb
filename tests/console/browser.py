"""A browser in a few lines: it keeps cookies, follows nothing by itself, and sends forms as a page of ours would."""

import html
import re
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import httpx

from ratelimit_service.console.routes import ROUTES

_CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')
_ONCE = re.compile(r'name="once" value="([^"]+)"')
_WORDS = {part for route in ROUTES for part in route.path.split("/")}
_LINK = re.compile(r'(?:href|action)="([^"]+)"')


@dataclass
class Browser:
    """One person's browser. `base` is the console's address, without a slash at its end."""

    base: str
    verify: ssl.SSLContext | bool = True
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(verify=self.verify, timeout=30)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the console."""
        return self.base.removesuffix("/console")

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Open a page: `/keys`, or an address of the server."""
        return self.client.get(self._url(path), headers=_names(headers))

    def post(self, path: str, data: Mapping[str, object] | None = None, **headers: str) -> httpx.Response:
        """Send a form as browsers do, with nothing added to its fields."""
        sent = {"origin": self.origin, "sec-fetch-site": "same-origin", **_names(headers)}
        present = {name: value for name, value in sent.items() if value}
        return self.client.post(self._url(path), data=dict(data or {}), headers=present)

    def submit(self, path: str, **fields: object) -> httpx.Response:
        """Send a form of an open session, with its tokens."""
        return self.post(path, {"csrf": self.csrf(), **fields})

    def sign_in(self, token: str) -> Self:
        """Sign in, and check that it worked."""
        answer = self.post("/sign-in", {"token": token})
        assert answer.status_code == 303, answer.text
        return self

    def csrf(self) -> str:
        """The token of this session's forms."""
        found = _CSRF.search(self.get("/audit").text)
        assert found, "no session"
        return found[1]

    def once(self, path: str) -> str:
        """The number of a form that may be sent once."""
        found = _ONCE.search(self.get(path).text)
        assert found
        return found[1]

    @property
    def is_signed_in(self) -> bool:
        """Whether the cookie still opens a page."""
        answer = self.get("/keys")
        assert answer.status_code in {200, 303}, answer.text
        return answer.status_code == 200

    @property
    def session_cookie(self) -> str:
        """What the session's cookie holds."""
        return next(value for name, value in self.client.cookies.items() if "session" in name)

    def walk(self, *first: str, most: int = 6) -> Iterator[tuple[str, httpx.Response]]:
        """Open the FIRST pages, and those that links lead to from there and from the start, so many of each kind."""
        waiting, seen = [*first, "/"], {*first, "/"}
        kinds: Counter[str] = Counter()
        while waiting:
            path = waiting.pop(0)
            answer = self.get(path)
            yield path, answer
            found = [html.unescape(link) for link in _LINK.findall(answer.text)]
            if "location" in answer.headers:
                found.append(answer.headers["location"])
            for link in found:
                local = link.removeprefix(self.origin).removeprefix("/console").partition("#")[0]
                if link.startswith("/console/") and local not in seen and kinds[_kind(local)] < most:
                    kinds[_kind(local)] += 1
                    seen.add(local)
                    waiting.append(local)

    def _url(self, path: str) -> str:
        return path if path.startswith("http") else f"{self.base}{path}"


def _kind(path: str) -> str:
    """Which page it is, whatever it shows: its words, and the names of what is asked for."""
    start, _, query = path.partition("?")
    words = "/".join(part if part in _WORDS else "*" for part in start.split("/"))
    return "&".join([words, *sorted(each.partition("=")[0] for each in query.split("&"))])


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
