"""Who may do what: every route and method, by every role."""

import re
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from console.browser import Browser
from fixtures.served import Server
from ratelimit_service.console.routes import ROUTES
from ratelimit_service.management.tokens import Role
from ratelimit_service.postgres.tables import metadata

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = tuple(dict.fromkeys(route.path for route in ROUTES))
ENDLESS = {route.path for route in ROUTES if route.path.endswith("/live")}
OWN_SESSION = {"/sign-in", "/sign-out"}
"""Paths whose forms open or close the session that sends them, and nothing else."""

FORM: Mapping[str, object] = {
    "action": "revoke",
    "confirm": "revoke 1",
    "subject": "made-by-a-viewer",
    "plan": "free",
    "name": "made-by-a-viewer",
    "overlap": "0",
    "limit": "burst",
    "capacity": "400",
    "refill_tokens": "400",
    "ends": "1h",
    "description": "changed by a viewer",
    "once": "one-time",
}
"""What would change something in any of the forms, were it sent by an admin."""


def contents(server: Server) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the database but the sessions and what is counted."""
    counted = re.compile("console_sessions|usage_|live_|lea|feed_heartbeat")
    tables = [table for table in metadata.sorted_tables if not counted.match(table.name)]
    with psycopg.connect(server.settings.database_url.get_secret_value()) as connection:
        return {
            table.name: sorted(connection.execute(f"SELECT * FROM {table.name}".encode()).fetchall(), key=repr)
            for table in tables
        }


def fill(path: str, key_id: str) -> str:
    """A path with the names of what there is."""
    names = {"key_id": key_id, "subject": "acme", "name": "free", "domain": "edge", "version": "1"}
    filled = re.sub(r"\{(\w+)\}", lambda part: names[part[1]], path)
    return f"{filled}?name=acme"


@pytest.mark.parametrize("method", METHODS)
def test_a_viewer_changes_nothing(viewer: Browser, server: Server, method: str) -> None:
    """Whatever route and method a viewer uses: the database stays as it is, and what is the admin's is refused."""
    key_id, _ = server.key("free")
    needed = {(route.path, route.method): route.role for route in ROUTES}
    before = contents(server)
    for path in PATHS:
        if path in OWN_SESSION or (path in ENDLESS and method in {"GET", "HEAD"}):
            continue
        typed = "revoke 1" if path.endswith("bulk") else key_id[-4:]
        form = {**FORM, "csrf": viewer.csrf(), "key_id": key_id, "confirm": typed}
        answer = viewer.client.request(
            method,
            f"{viewer.base}{fill(path, key_id)}",
            data=form if method not in {"GET", "HEAD", "OPTIONS"} else None,
            headers={"origin": viewer.origin, "sec-fetch-site": "same-origin"},
        )
        role = needed.get((path, "GET" if method == "HEAD" else method), "no such method")
        if role == "no such method":
            assert answer.status_code in {400, 405}, (method, path)  # 400: read as the id of a key
        elif role is Role.ADMIN:
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or "ROLE_INSUFFICIENT" in answer.text
        else:
            assert answer.status_code in {200, 303, 404}, (method, path, answer.text)
    assert contents(server) == before


def test_an_admin_changes_something(admin: Browser, server: Server) -> None:
    """The forms of the test above do change the database when an admin sends them: it can fail."""
    key_id, _ = server.key("free")
    before = contents(server)
    admin.submit(f"/keys/{key_id}/suspend", **FORM)
    assert contents(server) != before


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_session_there_is_nothing(anyone: Browser, server: Server, method: str) -> None:
    """Every route but signing in needs a session, whatever else is sent."""
    key_id, _ = server.key("free")
    before = contents(server)
    for route in ROUTES:
        if route.method == method and route.role is not None:
            answer = (anyone.get if method == "GET" else anyone.post)(fill(route.path, key_id))
            assert answer.status_code == 303, route.path
            assert answer.headers["location"].startswith("/console/sign-in"), route.path
    assert contents(server) == before


def test_pages_offer_a_viewer_nothing_to_change(viewer: Browser, server: Server) -> None:
    """A viewer sees no button that would be refused: each form and link leads to a route that a viewer may use."""
    server.key("free")
    admins = [re.sub(r"\{\w+\}", "[^/]+", route.path) for route in ROUTES if route.role is Role.ADMIN]
    viewers = [re.sub(r"\{\w+\}", "[^/]+", route.path) for route in ROUTES if route.role is not Role.ADMIN]
    for path, answer in viewer.walk():
        for link in re.findall(r'(?:href|action)="/console(/[^"?#]*)', answer.text):
            if any(re.fullmatch(pattern, link) for pattern in admins):
                assert any(re.fullmatch(pattern, link) for pattern in viewers), (path, link)
