"""Attacks on the console, each of which works if its defence is taken away."""

import re
import socket
import time
from collections.abc import Mapping
from html.parser import HTMLParser

import httpx
import pytest

from console.browser import Browser
from console.conftest import Browse, Manage
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.api.guessing import MAX_WAITING
from ratelimit_service.bootstrap import Services
from ratelimit_service.console.forms import MAX_FIELDS, MAX_FORM_BYTES, MAX_QUERY_BYTES
from ratelimit_service.console.security.headers import CONTENT_SECURITY_POLICY
from ratelimit_service.console.security.streams import MAX_STREAMS, MAX_STREAMS_HERE, MAX_STREAMS_OF_TOKEN
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode
from ratelimit_service.decision.limit import Limit, Quota, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.management.tokens import Role
from ratelimit_service.operations.listener import MAX_CONNECTIONS

EVIL = "https://evil.example"
MARKUP = """<xss onload=alert(1)>"'`"""


def state_of(server: Server, key_id: str) -> str:
    """The state of a key, by the API."""
    request = admin_pb2.ManageKeyRequest(get={"key_id": key_id})
    return Key.State.Name(server.manage().ManageKey(request, metadata=server.as_admin).get.key.state)


FORGED: list[tuple[str, Mapping[str, str]]] = [
    ("of another origin", {"origin": EVIL, "sec_fetch_site": ""}),
    ("of another site", {"sec_fetch_site": "cross-site"}),
    ("of another name of our site", {"sec_fetch_site": "same-site"}),
    ("of a page that hides its origin", {"origin": "null", "sec_fetch_site": ""}),
    ("of who knows where", {"origin": "", "sec_fetch_site": ""}),
]


@pytest.mark.parametrize("headers", [headers for _, headers in FORGED], ids=[name for name, _ in FORGED])
def test_a_form_of_another_page_is_refused(admin: Browser, server: Server, headers: Mapping[str, str]) -> None:
    """CSRF: even with the right token in it, a form that a page of ours did not send changes nothing."""
    key_id, _ = server.key()
    answer = admin.post(f"/keys/{key_id}/suspend", {"csrf": admin.csrf()}, **headers)
    assert answer.status_code == 403
    assert state_of(server, key_id) == "ACTIVE"


def test_a_form_without_its_token_is_refused(admin: Browser, viewer: Browser, server: Server) -> None:
    """CSRF: a form needs the token of its own session, even if the browser says that it is ours."""
    key_id, _ = server.key()
    for token in ("", "0" * 64, viewer.csrf()):
        answer = admin.post(f"/keys/{key_id}/suspend", {"csrf": token})
        assert answer.status_code == 403
        assert "FORM_OF_ANOTHER_SESSION" in answer.text
    assert state_of(server, key_id) == "ACTIVE"
    assert admin.submit(f"/keys/{key_id}/suspend").status_code == 303  # and with it, it works
    assert state_of(server, key_id) == "SUSPENDED"


def test_signing_in_cannot_be_forged(anyone: Browser, server: Server) -> None:
    """CSRF: no other site can sign a person in as somebody else."""
    answer = anyone.post("/sign-in", {"token": server.tokens[Role.VIEWER]}, origin=EVIL, sec_fetch_site="cross-site")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_reading_changes_nothing(admin: Browser, server: Server) -> None:
    """A link or an image cannot do what a form does: GET suspends no key."""
    key_id, _ = server.key()
    admin.get(f"/keys/{key_id}/suspend")
    assert admin.get(f"/keys/{key_id}/resume").status_code == 405
    assert state_of(server, key_id) == "ACTIVE"


def test_texts_are_never_markup(admin: Browser, manage: Manage[str]) -> None:
    """XSS: markup in every text that a caller or an admin chooses is shown as text, on every page."""

    async def fill(services: Services) -> str:
        await services.plans.create(
            "admin",
            PlanDraft(
                name="markup",
                limits=(Limit("daily", Quota(5, Window.DAY), f"{MARKUP}*"),),
                on_store_failure=OnStoreFailure.LOCAL,
                description=MARKUP,
            ),
        )
        draft = KeyDraft(plan="markup", subject=MARKUP, description=MARKUP, expires_us=None, labels={"team": MARKUP})
        key, _ = await services.keys.create("admin", draft)
        limit = RuleLimit(Quota(5, Window.DAY), "a <xss> name")
        nodes = (RuleNode(MARKUP, MARKUP, (limit,), (RuleNode("inner", MARKUP),)),)
        await services.rules.replace(MARKUP, DomainRules(MARKUP, nodes), description=MARKUP)
        return key.key_id

    key_id = manage(fill)
    seen = 0
    paths = (f"/keys?q={MARKUP}", f"/keys/{key_id}?resource={MARKUP}", f"/audit?target={MARKUP}&actor={MARKUP}")
    for path, answer in admin.walk(*paths, "/plans/markup", f"/rules/domain?name={MARKUP}"):
        assert "<xss" not in answer.text, path
        seen += "&lt;xss onload" in answer.text
    assert seen > 5


def test_texts_sent_live_are_never_markup(admin: Browser, manage: Manage[str]) -> None:
    """XSS: what replaces a part of the page is escaped as the page is."""
    draft = KeyDraft(plan="free", subject="<xss>live", description="", expires_us=None)

    async def make(services: Services) -> str:
        key, _ = await services.keys.create("admin", draft)
        return key.key_id

    key_id = manage(make)
    with admin.client.stream("GET", f"{admin.base}/keys/{key_id}/live?resource=<xss>") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert "<xss" not in first
    assert "&lt;xss&gt;live" in first


@pytest.mark.parametrize("path", ["/", "/sign-in", "/keys", "/nothing", "/keys/nothing", "/keys?q=%ff", "/sign-out"])
def test_every_answer_binds_the_browser(admin: Browser, path: str) -> None:
    """Clickjacking, and scripts from elsewhere: whatever is answered, it says what may frame, load and run."""
    answer = admin.get(path)
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


def test_the_policy_has_no_hole() -> None:
    """The policy begins with nothing, frames nothing, and allows no inline code."""
    directives = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["base-uri"] == "'none'"
    assert set(directives.values()) == {"'none'", "'self'"}


class _Inline(HTMLParser):
    """Finds what the policy would forbid in a page: inline scripts, styles and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag == "style" or (tag == "script" and "src" not in names):
            self.found.append(tag)
        self.found += [f"{tag} {name}" for name in names if name == "style" or name.startswith("on")]


def test_no_page_needs_what_the_policy_forbids(admin: Browser) -> None:
    """No page has an inline script, style or handler: the policy would only hide the fault."""
    for path, answer in admin.walk():
        page = _Inline()
        page.feed(answer.text)
        assert page.found == [], path


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example/console/",
        "/\\evil.example",
        "/console/\\evil.example",
        "/console/../../evil",
        "/console/%2e%2e/metrics",
        "/console/.%2E//evil.example",
        "/console@evil.example",
        "javascript:alert(1)",
        "/console/\r\nlocation: https://evil.example",
        "/elsewhere",
    ],
)
def test_signing_in_leads_nowhere_else(anyone: Browser, server: Server, target: str) -> None:
    """Open redirect: whatever `next` says, one ends on a page of the console."""
    answer = anyone.post("/sign-in", {"token": server.tokens[Role.VIEWER], "next": target})
    assert answer.headers["location"] == "/console/"
    assert anyone.client.get(f"{anyone.base}/sign-in", params={"next": target}).headers["location"] == "/console/"


def test_signing_in_leads_to_the_page_that_was_asked_for(anyone: Browser, server: Server) -> None:
    """A page that was asked for without a session is opened after signing in, with its filters."""
    asked = anyone.get("/keys?plan=free").headers["location"]
    assert asked == "/console/sign-in?next=%2Fconsole%2Fkeys%3Fplan%3Dfree"
    answer = anyone.post("/sign-in", {"token": server.tokens[Role.VIEWER], "next": "/console/keys?plan=free"})
    assert answer.headers["location"] == "/console/keys?plan=free"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "",
        "localhost:80@evil.example",
        "localhost:evil",
        "[::1].evil.example",
        "[::1]evil",
    ],
)
def test_other_hosts_get_no_page(server: Server, host: str) -> None:
    """Host header, DNS rebinding: the console answers to its own names only."""
    assert _status(server, f"Host: {host}") == 421


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9464", "[::1]:9464", "console.example", "CONSOLE.example:443"]
)
def test_its_own_hosts_are_known(server: Server, host: str) -> None:
    """The loopback names and those of RATELIMIT_CONSOLE_HOSTS are its own, whatever the port."""
    assert _status(server, f"Host: {host}") == 200


def test_no_address_in_a_page_comes_from_the_host_header(anyone: Browser) -> None:
    """Host header: a page and where it leads do not repeat the name that was asked for."""
    for path in ("/sign-in", "/keys"):
        answer = anyone.get(path, host="console.example")
        assert "console.example" not in answer.text + answer.headers.get("location", "")


def test_what_is_sent_is_bounded(admin: Browser) -> None:
    """Bodies, numbers of fields and queries beyond their bounds are refused, and so is what is no form."""
    csrf = admin.csrf()
    assert admin.post("/find", {"csrf": csrf, "q": "x" * MAX_FORM_BYTES}).status_code == 413
    assert admin.post("/find", {"csrf": csrf, "q": ["x"] * MAX_FIELDS}).status_code == 413
    assert admin.get(f"/keys?q={'x' * MAX_QUERY_BYTES}").status_code == 400
    assert admin.post("/find", {"csrf": csrf}, content_type="text/plain").status_code == 400
    files = {"csrf": (None, csrf)}
    answer = admin.client.post(f"{admin.base}/find", files=files, headers={"sec-fetch-site": "same-origin"})
    assert answer.status_code == 400


def test_a_body_of_two_lengths_is_refused(server: Server) -> None:
    """Smuggling: what a proxy may take for a body, and we for the next request, ends the connection."""
    host, _, port = server.settings.operations_listen.rpartition(":")
    for path in ("/console/sign-in", "/healthz"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n"
                "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            answers = connection.makefile("rb").read()
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1


def _status(server: Server, header: str) -> int:
    """The status of the page for signing in, asked for with this `Host` header."""
    host, _, port = server.settings.operations_listen.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET /console/sign-in HTTP/1.1\r\n{header}\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_a_planted_cookie_opens_no_session(anyone: Browser, admin: Browser, viewer: Browser) -> None:
    """Cookie tossing: beside a session's cookie, one of the same name that another port set leads into no session."""
    own, planted = (f"ratelimit-session={browser.session_cookie}" for browser in (admin, viewer))
    assert anyone.get("/keys", cookie=own).status_code == 200
    assert anyone.get("/keys", cookie=f"{own}; {own}").status_code == 200
    for both in (f"{own}; {planted}", f"{planted}; {own}"):
        assert anyone.get("/keys", cookie=both).status_code == 303


def test_one_token_leaves_connections_to_probes(browse: Browse, server: Server) -> None:
    """Exhaustion: with streams of as many sessions as it likes, a viewer's token cannot take the port's connections."""
    host, _, port = server.settings.operations_listen.rpartition(":")
    opened: list[socket.socket] = []
    for _ in range(MAX_CONNECTIONS // MAX_STREAMS_HERE + 1):
        cookie = browse().sign_in(server.tokens[Role.VIEWER]).session_cookie
        for _ in range(MAX_STREAMS_HERE):
            opened.append(socket.create_connection((host, int(port)), timeout=20))
            asked = (
                f"GET /console/alerts/live HTTP/1.1\r\nHost: localhost\r\nCookie: ratelimit-session={cookie}\r\n\r\n"
            )
            opened[-1].sendall(asked.encode())
    time.sleep(2)
    live = sum(_sent_so_far(connection).startswith(b"HTTP/1.1 200") for connection in opened)
    assert live >= MAX_STREAMS_OF_TOKEN
    assert httpx.get(f"http://{host}:{port}/readyz").status_code == 200
    assert browse().sign_in(server.tokens[Role.VIEWER]).is_signed_in
    for connection in opened:
        connection.close()


def _sent_so_far(connection: socket.socket) -> bytes:
    connection.settimeout(5)
    try:
        return connection.recv(65536)
    except (TimeoutError, ConnectionError):
        return b""


def test_bounds_leave_room_on_the_port() -> None:
    """All streams and all answers that wait, together, are fewer than the port's connections, with room for others."""
    assert MAX_STREAMS + MAX_WAITING <= MAX_CONNECTIONS * 3 // 4


def test_what_misleads_is_refused_beside_its_input(admin: Browser, manage: Manage[str]) -> None:
    """A text that looks like another is refused in the form, with its code point, and never shown raw in the error."""

    async def plan(services: Services) -> str:
        limits = (Limit("daily", Quota(5, Window.DAY)),)
        draft = PlanDraft(name="typed", limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        return (await services.plans.create("admin", draft)).name

    name = manage(plan)
    override = "U+202E RIGHT-TO-LEFT OVERRIDE at character 3"
    fields = {"plan": name, "expires": "never", "subject": "acme"}
    for typed in ({"subject": "ac\u202eme"}, {"description": "ac\u202eme"}, {"labels": "team=ac\u202eme"}):
        answer = admin.submit("/keys/new", once=admin.once("/keys/new"), **fields | typed)
        assert answer.status_code == 400
        (field,) = typed
        assert re.search(rf'id="e-{field}">.*{re.escape(override)}', answer.text), field
    row = {"l0.name": "daily", "l0.kind": "quota", "l0.amount": "6", "l0.window": "day", "l0.resource": "ac\u202eme"}
    answer = admin.submit(f"/plans/{name}/edit", do="save", confirm=name, **row)
    assert answer.status_code == 400
    assert re.search(rf'id="e-l0.resource">.*{re.escape(override)}', answer.text)
    document = 'domain: shop\ndescriptors:\n- key: "ac\u202eme"\n'
    answer = admin.submit("/rules/edit", do="review", document=document)
    assert answer.status_code == 400
    assert "descriptors[0].key" in answer.text
