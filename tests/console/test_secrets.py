"""Secrets are shown once and stand nowhere else."""

import base64
import re

import psycopg
import pytest

from console.browser import Browser
from console.conftest import Manage
from fixtures.served import Server
from ratelimit_service.management.tokens import Role


def test_a_new_secret_is_shown_once(admin: Browser, server: Server) -> None:
    """The page that answers the form has the secret and is not stored; sending the form again makes nothing."""
    form = {"plan": "free", "subject": "once-only", "expires": "never", "once": admin.once("/keys/new")}
    answer = admin.submit("/keys/new", **form)
    secret = re.search(r"rlk_live_[0-9A-Za-z]{16}_[0-9A-Za-z]{33}", answer.text)
    assert secret
    assert answer.headers["cache-control"] == "no-store"
    again = admin.submit("/keys/new", **form)
    assert again.status_code == 409
    assert "FORM_SENT_BEFORE" in again.text
    assert admin.get("/keys?q=once-only").text.count('name="key_id"') == 1
    assert secret[0].rpartition("_")[2] not in server.output


def test_rotating_shows_the_new_secret_once(admin: Browser, server: Server) -> None:
    """A rotated key has another secret, which the page shows, and the old one is gone."""
    key_id, old = server.key("free")
    form = {"overlap": "0", "once": admin.once(f"/keys/{key_id}/rotate")}
    answer = admin.submit(f"/keys/{key_id}/rotate", **form)
    secret = re.search(rf"rlk_live_{key_id}_[0-9A-Za-z]{{33}}", answer.text)
    assert secret
    assert secret[0] != old
    assert old not in answer.text
    assert admin.submit(f"/keys/{key_id}/rotate", **form).status_code == 409


def test_a_pasted_key_goes_no_further(admin: Browser, server: Server) -> None:
    """Who pastes a key in full finds its page; the secret is in no address, page or log."""
    key_id, api_key = server.key("free")
    secret = api_key.rpartition("_")[2]
    for answer in (
        admin.submit("/find", q=api_key),
        admin.submit("/keys/filter", q=api_key),
        admin.submit("/keys/filter", q=f"is it {api_key}?"),
        admin.get(f"/keys?q={api_key}"),
    ):
        assert answer.status_code == 303
        assert key_id in answer.headers["location"]
        assert secret not in answer.headers["location"] + answer.text
    assert secret not in server.output


@pytest.mark.parametrize(
    "path", ["/audit?target=", "/subject?name=", "/keys?plan=", "/sign-in?next=/console/keys?q=", "/plans/", "/keys/"]
)
def test_a_key_in_any_field_goes_no_further(admin: Browser, server: Server, path: str) -> None:
    """A key in an address is taken out of it at once, whatever field it was pasted into, and never shown."""
    key_id, api_key = server.key("free")
    secret = api_key.rpartition("_")[2]
    answer = admin.get(f"{path}{api_key}")
    assert answer.status_code == 303
    assert key_id in answer.headers["location"]
    assert secret not in answer.headers["location"] + answer.text
    answer = admin.submit("/audit/filter", target=f"keys/{api_key}")
    assert answer.headers["location"] == f"/console/audit?target=keys%2F{key_id}"


def test_no_secret_is_in_any_page(admin: Browser, server: Server, manage: Manage[str]) -> None:
    """No page and no line of the log has a token, a secret, a pepper, a session or the hash of one."""
    key_id, api_key = server.key("free")
    admin.submit(f"/keys/{key_id}/suspend")
    spare = manage(lambda services: services.tokens.create("spare", Role.VIEWER))
    secrets = {api_key.rpartition("_")[2], *(token.rpartition("_")[2] for token in (*server.tokens.values(), spare))}
    secrets |= {part.partition(":")[2] for part in server.settings.peppers.get_secret_value().split(",")}
    secrets.add(admin.session_cookie)
    with psycopg.connect(server.settings.database_url.get_secret_value()) as connection:
        for table in ("key_secrets", "admin_tokens", "console_sessions"):
            for (digest,) in connection.execute(f"SELECT digest FROM {table}".encode()):
                secrets |= {digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode()}
    assert len(secrets) > 10
    walked = 0
    for path, answer in admin.walk():
        walked += 1
        shown = answer.text + str(answer.headers)
        assert not [secret for secret in secrets if secret in shown], path
    assert walked > 20
    assert not [secret for secret in secrets if secret in server.output]
