"""Many keys, labels, filters and old values on the command line, from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.dev_server import DevServer

CSV = """subject,plan,description,expires,label.team,label.tier
bulk-1,pro,"one, two",30d,search,1
bulk-2,,,,search,
"""


def read(server: DevServer, *arguments: str, stdin: str = "") -> Any:  # noqa: ANN401  whatever the command prints
    """Run a command that succeeds and prints JSON."""
    done = server.run(*arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def create(server: DevServer, *subjects: str) -> list[str]:
    """Create keys on the plan free. Returns their ids."""
    drafts = json.dumps([{"subject": subject, "plan": "free"} for subject in subjects])
    made = read(server, "keys", "create", "--file", "-", stdin=drafts)
    return [result["created"]["key"]["key_id"] for result in made["results"]]


def test_keys_are_created_from_a_csv_file(dev_server: DevServer, tmp_path: Path) -> None:
    """Each line makes a key; the options fill in what it leaves out; the secrets are printed, one a line, and work."""
    file = tmp_path / "new.csv"
    file.write_text(CSV)
    done = dev_server.run("keys", "create", "--file", str(file), "--plan", "free", "--label", "from=csv")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["KEY_ID", "SUBJECT", "PLAN", "API_KEY", "ERROR"]
    assert [row[1:3] for row in rows[1:]] == [["bulk-1", "pro"], ["bulk-2", "free"]]
    assert dev_server.run("check", rows[1][3]).returncode == 0
    first, second = (read(dev_server, "keys", "get", row[0]) for row in rows[1:])
    assert (first["description"], first["labels"]) == ("one, two", {"from": "csv", "team": "search", "tier": "1"})
    assert "expire_time" in first
    assert (second["labels"], second.get("expire_time")) == ({"from": "csv", "team": "search"}, None)


def test_keys_are_created_from_a_yaml_file(dev_server: DevServer) -> None:
    """YAML with a list under `keys` makes keys; one that fails is named, the others are made, with exit code 3."""
    text = (
        "keys:\n- {subject: yaml-1, plan: free, expire_time: 2099-01-01T00:00:00Z}\n- {subject: yaml-2, plan: nope}\n"
    )
    done = dev_server.run("keys", "create", "--file", "-", stdin=text)
    assert done.returncode == 3
    assert "PLAN_NOT_FOUND: there is no plan nope" in done.stdout
    assert done.stderr.splitlines()[-1] == "1 of 2 keys were not created"
    listed = read(dev_server, "keys", "list", "--subject-prefix", "yaml-")["keys"]
    assert [(key["subject"], key["expire_time"]) for key in listed] == [("yaml-1", "2099-01-01T00:00:00Z")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "subject,plna\nx,free\n", "a.csv, line 1: unknown column 'plna'"),
        ("a.csv", "subject,plan\nx,free,y\n", "a.csv, line 2: has more fields than line 1 has columns"),
        ("a.csv", "subject,plan,expires\nx,free,soon\n", "a.csv, line 2: --expires: 'soon' is not a time"),
        ("a.csv", "subject,plan\n", "a.csv: names no key"),
        ("a.yaml", "subject: x", "a.yaml: must hold a list of keys, not dict"),
        ("a.yaml", "- x", "a.yaml, key 1: must be an object, not str"),
        ("a.yaml", "- {subject: a}\n- {sbject: b}", "a.yaml, key 2: "),
        ("a.yaml", "- {", "a.yaml, line 1: "),
    ],
)
def test_a_file_that_cannot_be_read_creates_nothing(
    dev_server: DevServer, tmp_path: Path, name: str, text: str, message: str
) -> None:
    """An invalid file is refused as a whole, with the line or key that is invalid."""
    (tmp_path / name).write_text(text)
    done = dev_server.run("keys", "create", "--file", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_many_keys_are_suspended_resumed_and_revoked(dev_server: DevServer, tmp_path: Path) -> None:
    """Ids from the command line and from a file are changed at once; one that fails is named, with exit code 3."""
    ids = create(dev_server, "many-1", "many-2", "many-3")
    file = tmp_path / "ids"
    file.write_text(f"# those of many\n{ids[1]}  many-2\n\n{ids[2]}\n")
    suspended = dev_server.run("keys", "suspend", ids[0], "--file", str(file))
    assert suspended.returncode == 0, suspended.stderr
    assert [line.split() for line in suspended.stdout.splitlines()[1:]] == [
        [key_id, f"many-{number}", "free", "SUSPENDED"] for number, key_id in enumerate(ids, 1)
    ]
    again = dev_server.run("keys", "resume", ids[0], ids[0])
    assert (again.returncode, again.stderr) == (3, "1 of 2 keys were not changed\n")
    assert "KEY_STATE_CONFLICT" in again.stdout
    revoked = read(dev_server, "keys", "revoke", "--file", "-", stdin="\n".join(ids))
    assert [result["key"]["state"] for result in revoked["results"]] == ["REVOKED"] * 3
    assert read(dev_server, "keys", "list", "--subject-prefix", "many-", "--status", "active")["keys"] == []
    nothing = dev_server.run("keys", "revoke")
    assert (nothing.returncode, nothing.stderr[:7]) == (2, "no key:")


def test_more_keys_than_fit_a_call_are_created(dev_server: DevServer) -> None:
    """A file with more than 1,000 keys is sent in several calls, and its keys are all there, in its order."""
    subjects = [f"lots-{number:04}" for number in range(1001)]
    assert len(set(create(dev_server, *subjects))) == 1001
    last = read(dev_server, "keys", "list", "--subject", "lots-1000")["keys"]
    assert [key["subject"] for key in last] == ["lots-1000"]


def test_labels_are_set_and_removed(dev_server: DevServer) -> None:
    """`update` sets and removes single labels and keeps the others; lists filter by them and show them."""
    made = read(
        dev_server,
        "keys",
        "create",
        "--plan",
        "free",
        "--subject",
        "labelled",
        "--label",
        "team=a",
        "--label",
        "tier=1",
    )
    key_id = made["key"]["key_id"]
    changed = read(
        dev_server, "keys", "update", key_id, "--label", "team=b=c", "--remove-label", "tier", "--label", "x="
    )
    assert changed["labels"] == {"team": "b=c", "x": ""}
    listed = dev_server.run("keys", "list", "--label", "team=b=c", "--label", "x=").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["KEY_ID", key_id]
    assert "team=b=c, x=" in listed[1]
    audited = dev_server.run("audit", "list", "--target", f"keys/{key_id}", "--page-size", "1").stdout
    assert 'labels.team: a -> b=c, labels.tier: 1 -> (none), labels.x: (none) -> ""' in audited
    assert dev_server.run("keys", "list", "--label", "team").returncode == 2


def test_a_key_is_found_by_its_secret(dev_server: DevServer) -> None:
    """A pasted API key finds the key; a text without an id is refused and not repeated."""
    made = read(dev_server, "keys", "create", "--plan", "free", "--subject", "found")
    assert [key["subject"] for key in read(dev_server, "keys", "list", "--search", made["secret"])["keys"]] == ["found"]
    refused = dev_server.run("keys", "list", "--search", made["secret"].rpartition("_")[2])
    assert (refused.returncode, refused.stderr[:26]) == (2, "--search: has no key id; s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--status", "gone"], "--status: 'gone' is none of active, suspended, revoked, expired"),
        (["--expires-before", "soon"], "--expires-before: 'soon' is not a time"),
        (["--last-used-before", "soon"], "--last-used-before: 'soon' is not a time"),
    ],
)
def test_bad_filters_are_reported(dev_server: DevServer, options: list[str], message: str) -> None:
    """A filter that cannot be read is refused with what it may be."""
    done = dev_server.run("keys", "list", *options)
    assert (done.returncode, message in done.stderr) == (2, True)


def test_filters_by_time(dev_server: DevServer) -> None:
    """Lists take times from now on for expiry, and so long ago for last use and changes."""
    read(dev_server, "keys", "create", "--plan", "free", "--subject", "timed", "--expires", "10d")
    timed = ["keys", "list", "--subject", "timed"]
    assert (
        len(read(dev_server, *timed, "--expires-before", "11d", "--expires-after", "9d", "--never-used")["keys"]) == 1
    )
    assert read(dev_server, *timed, "--expires-before", "9d")["keys"] == []
    assert read(dev_server, *timed, "--last-used-before", "0s")["keys"] == []
    listed = read(dev_server, "audit", "list", "--since", "1h", "--action", "key.create", "--actor", "dev")["events"]
    assert {event["action"] for event in listed} == {"key.create"}
    assert read(dev_server, "audit", "list", "--until", "1h")["events"] == []
    assert {
        event["target"][:6] for event in read(dev_server, "audit", "list", "--target-prefix", "plans/")["events"]
    } == {"plans/"}


def test_audit_shows_old_and_new_values(dev_server: DevServer) -> None:
    """A changed field is shown as old -> new, what is new as field=value, both without what stayed the same."""
    (key_id,) = create(dev_server, "audited")
    dev_server.run("keys", "update", key_id, "--plan", "pro")
    dev_server.run("keys", "revoke", key_id)
    lines = dev_server.run("audit", "list", "--target", f"keys/{key_id}").stdout.splitlines()[1:]
    assert [line.split("  ")[-1].strip() for line in lines] == [
        "state: ACTIVE -> REVOKED",
        "plan: free -> pro",
        "plan=free, subject=audited",
    ]
