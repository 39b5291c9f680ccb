"""Keys on the command line, from end to end."""

import json
from typing import Any

import pytest

from fixtures.dev_server import DevServer


def create(server: DevServer, subject: str, *options: str) -> dict[str, Any]:
    """Create a key on plan free; returns the key and its secret."""
    made = server.run("keys", "create", "--plan", "free", "--subject", subject, *options, "--json")
    assert made.returncode == 0, made.stderr
    created: dict[str, Any] = json.loads(made.stdout)
    return created


def test_the_secret_is_shown_once(dev_server: DevServer) -> None:
    """`create` prints the key and its secret on a line of its own; `get` never shows the secret again."""
    made = dev_server.run(
        *("keys", "create", "--plan", "free", "--subject", "once", "--description", "a [b] c", "--expires", "30d")
    )
    assert made.returncode == 0, made.stderr
    lines = made.stdout.splitlines()
    assert lines[-2] == "API key, shown now and never again:"
    secret = lines[-1]
    assert dev_server.run("check", secret).returncode == 0
    facts = dict(line.split(maxsplit=1) for line in lines[:-3])
    assert (facts["subject"], facts["plan"], facts["state"]) == ("once", "free", "ACTIVE")
    assert facts["description"] == "a [b] c"
    again = dev_server.run("keys", "get", facts["key_id"]).stdout
    assert facts["key_id"] in again
    assert secret not in again


def test_lists_page_by_page(dev_server: DevServer) -> None:
    """A list shows the keys in order of creation, and how to get the next page after a full one."""
    made = [create(dev_server, "paged")["key"]["key_id"] for _ in range(3)]
    first = dev_server.run("keys", "list", "--subject", "paged", "--page-size", "2")
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["KEY_ID", *made[:2]]
    page_token = first.stderr.split("--page-token ")[1].strip()
    second = dev_server.run("keys", "list", "--subject", "paged", "--page-size", "2", "--page-token", page_token)
    assert [line.split()[0] for line in second.stdout.splitlines()] == ["KEY_ID", made[2]]
    assert second.stderr == ""
    everything = json.loads(dev_server.run("keys", "list", "--subject", "paged", "--json").stdout)
    assert [key["key_id"] for key in everything["keys"]] == made


def test_update_changes_what_is_named(dev_server: DevServer) -> None:
    """Only the options that are given change the key; an old etag is refused with exit code 3."""
    key = create(dev_server, "updated", "--description", "first", "--expires", "2099-01-01")["key"]
    key_id = key["key_id"]
    changed = json.loads(dev_server.run("keys", "update", key_id, "--plan", "pro", "--json").stdout)
    assert (changed["plan"], changed["description"], changed["expire_time"]) == ("pro", "first", "2099-01-01T00:00:00Z")
    cleared = json.loads(
        dev_server.run("keys", "update", key_id, "--description", "", "--expires", "never", "--json").stdout
    )
    assert (cleared["plan"], cleared["description"], cleared.get("expire_time")) == ("pro", "", None)
    late = dev_server.run("keys", "update", key_id, "--plan", "free", "--etag", key["etag"])
    assert late.returncode == 3
    assert "ETAG_MISMATCH" in late.stderr
    assert dev_server.run("keys", "update", key_id).stderr.startswith("nothing to change")


def test_rotation_overlaps(dev_server: DevServer) -> None:
    """After a rotation with an overlap both secrets are valid; after one without, only the new one."""
    created = create(dev_server, "rotated")
    key_id, first = created["key"]["key_id"], created["secret"]
    second = json.loads(dev_server.run("keys", "rotate", key_id, "--overlap", "1h", "--json").stdout)["secret"]
    assert dev_server.run("check", first).returncode == 0
    assert dev_server.run("check", second).returncode == 0
    third = dev_server.run("keys", "rotate", key_id).stdout.splitlines()[-1]
    assert dev_server.run("check", third).returncode == 0
    assert wait_for(dev_server, second, "KEY_UNKNOWN")


def test_suspension_and_revocation(dev_server: DevServer) -> None:
    """A suspended key is denied until it is resumed, and a revoked one permanently."""
    created = create(dev_server, "ended")
    key_id, secret = created["key"]["key_id"], created["secret"]
    assert "SUSPENDED" in dev_server.run("keys", "suspend", key_id).stdout
    assert wait_for(dev_server, secret, "KEY_SUSPENDED")
    assert dev_server.run("keys", "suspend", key_id).returncode == 3
    assert "ACTIVE" in dev_server.run("keys", "resume", key_id).stdout
    assert wait_for(dev_server, secret, "WITHIN_LIMIT")
    assert "REVOKED" in dev_server.run("keys", "revoke", key_id).stdout
    assert wait_for(dev_server, secret, "KEY_REVOKED")
    listed = dev_server.run("audit", "list", "--target", f"keys/{key_id}").stdout.splitlines()
    assert [line.split()[3] for line in listed[1:]] == ["key.revoke", "key.resume", "key.suspend", "key.create"]
    assert {line.split()[2] for line in listed[1:]} == {"dev"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["create", "--plan", "nope", "--subject", "x"], 3, "NOT_FOUND PLAN_NOT_FOUND"),
        (["create", "--plan", "free", "--subject", ""], 2, "subject"),
        (["create", "--plan", "free", "--subject", " acme "], 2, "create.subject: begins with U+0020 SPACE"),
        (["list", "--subject", "acme\u200b"], 2, "list.subject: has U+200B ZERO WIDTH SPACE"),
        (["create", "--plan", "free"], 2, "--subject is missing"),
        (["create", "--plan", "free", "--subject", "x", "--expires", "soon"], 2, "--expires: 'soon' is not a time"),
        (["create", "--plan", "free", "--subject", "x", "--expires", "2020-01-01"], 2, "expire_time"),
        (["get", "0123456789abcdef"], 3, "NOT_FOUND KEY_NOT_FOUND"),
        (["get", "x"], 2, "key_id: "),
        (["rotate", "0123456789abcdef", "--overlap", "31d"], 2, "rotate.overlap: "),
        (["rotate", "0123456789abcdef", "--overlap", "x"], 2, "--overlap: 'x' is not a duration"),
        (["list", "--page-size", "1001"], 2, "less than or equal to 1000"),
        (["list", "--page-token", "x"], 2, "list.page_token: "),
        (["list", "--token", "rlt_nonsense"], 3, "UNAUTHENTICATED TOKEN_INVALID"),
        (["list", "--server", "127.0.0.1:1"], 4, "cannot reach a server at 127.0.0.1:1"),
        (["list", "--server", "http://127.0.0.1:1"], 2, "write HOST:PORT for a server on this machine, https"),
    ],
)
def test_errors_are_reported_in_a_few_lines(
    dev_server: DevServer, arguments: list[str], code: int, message: str
) -> None:
    """Each error has its documented exit code and names what is wrong, without a traceback."""
    done = dev_server.run("keys", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def wait_for(server: DevServer, secret: str, reason: str) -> bool:
    """Whether calls with the secret get this reason within a few tries: changes take up to a second."""
    return any(
        json.loads(server.run("check", secret, "--cost", "0", "--json").stdout)["reason"] == reason for _ in range(8)
    )
