"""Plans, overrides, tokens and audit on the command line, from end to end."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from fixtures.dev_server import PROGRAM, DevServer

PLAN = Path(__file__).parents[2] / "docs" / "plan.yaml"


def test_the_seeded_plans(dev_server: DevServer) -> None:
    """`free` and `pro` exist, with the limits that the README states."""
    listed = {line.split()[0]: line for line in dev_server.run("plans", "list").stdout.splitlines()[1:]}
    assert "burst: 20 tokens, 10 more every 1s; daily: 10,000 a day" in listed["free"]
    assert "burst: 200 tokens, 100 more every 1s; monthly: 5,000,000 a month" in listed["pro"]


def test_a_plan_lives_in_a_file(dev_server: DevServer) -> None:
    """A plan is created from a file, updated by what was read before, refused with an old etag, and deleted."""
    made = dev_server.run("plans", "create", str(PLAN))
    assert made.returncode == 0, made.stderr
    assert "exports: 20 calls an hour, for reports.export.*" in made.stdout
    assert "monthly: 1,000,000 a month (shadow)" in made.stdout
    assert dev_server.run("plans", "create", str(PLAN)).returncode == 3
    read = dev_server.run("plans", "get", "team", "--json").stdout
    changed = dev_server.run("plans", "update", "-", stdin=read)
    assert changed.returncode == 0, changed.stderr
    assert re.search(r"^version +2$", changed.stdout, re.MULTILINE)
    late = dev_server.run("plans", "update", "-", stdin=read)
    assert late.returncode == 3
    assert "ABORTED ETAG_MISMATCH" in late.stderr
    only = json.loads(dev_server.run("plans", "update", "-", "--json", stdin="{name: team, description: new}").stdout)
    assert (only["description"], len(only["limits"]), only["version"]) == ("new", 3, "3")
    assert json.loads(dev_server.run("plans", "get", "team", "--version", "1", "--json").stdout)["version"] == "1"
    assert dev_server.run("plans", "delete", "team").returncode == 0
    assert "PLAN_NOT_FOUND" in dev_server.run("plans", "get", "team").stderr


def test_a_change_is_confirmed_and_rolled_back(dev_server: DevServer) -> None:
    """A cut is shown and refused where nobody can be asked, made with --yes, and undone by one command."""
    limits = "limits: [{name: hourly, quota: {amount: %d, window: HOUR}}]"
    assert dev_server.run("plans", "create", "-", stdin="{name: cut, " + limits % 100 + "}").returncode == 0
    smaller = "{name: cut, " + limits % 40 + "}"
    asked = dev_server.run("plans", "update", "-", stdin=smaller)
    assert asked.returncode == 3
    assert asked.stderr.splitlines() == [
        "This change has to be confirmed:",
        "plans/cut: limit hourly is cut by 60 %",
        "No call of its keys was counted in the last 24 h.",
        "nothing was changed; repeat it with --yes to confirm it",
    ]
    assert json.loads(dev_server.run("plans", "get", "cut", "--json").stdout)["version"] == "1"
    made = dev_server.run("plans", "update", "-", "--yes", "--json", stdin=smaller)
    assert json.loads(made.stdout)["version"] == "2", made.stderr
    back = json.loads(dev_server.run("plans", "rollback", "cut", "--json").stdout)
    assert (back["version"], back["limits"][0]["quota"]["amount"]) == ("3", "100")
    assert dev_server.run("plans", "rollback", "cut", "--to", "2").returncode == 3
    assert dev_server.run("plans", "rollback", "cut", "--to", "9", "--yes").returncode == 3
    assert (
        json.loads(dev_server.run("plans", "rollback", "cut", "--to", "2", "--yes", "--json").stdout)["version"] == "4"
    )


def test_whoever_sits_at_the_terminal_is_asked(dev_server: DevServer, tmp_path: Path) -> None:
    """On a terminal the command shows what the change does and asks: no changes nothing, yes makes it."""
    limits = "limits: [{name: hourly, quota: {amount: %d, window: HOUR}}]"
    assert dev_server.run("plans", "create", "-", stdin="{name: asked, " + limits % 100 + "}").returncode == 0
    file = tmp_path / "plan.yaml"
    file.write_text("{name: asked, " + limits % 40 + "}")
    for answer, code, version in (("n", 3, "1"), ("y", 0, "2")):
        assert on_terminal(dev_server, answer, "plans", "update", str(file)) == code
        assert json.loads(dev_server.run("plans", "get", "asked", "--json").stdout)["version"] == version


def on_terminal(dev_server: DevServer, answer: str, *arguments: str) -> int:
    """Run a command on a terminal of its own, type ANSWER when it asks, and return its exit code."""
    ours, its = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *arguments], stdin=its, stdout=its, stderr=its, env=dev_server.environment, start_new_session=True
    ) as process:
        os.close(its)
        shown = b""
        while b"Make this change?" not in shown:
            shown += os.read(ours, 4_096)
        os.write(ours, f"{answer}\n".encode())
        code = process.wait(60)
        os.close(ours)
    assert b"limit hourly is cut by 60 %" in shown
    return code


def test_a_plan_in_use_stays(dev_server: DevServer) -> None:
    """A plan with keys on it is not deleted, and the error reports how many there are."""
    done = dev_server.run("plans", "delete", "free")
    assert done.returncode == 3
    assert "PLAN_IN_USE" in done.stderr


def test_a_change_is_tried_on_the_last_day(dev_server: DevServer) -> None:
    """`plans simulate` takes the file of an update, and prints each limit, its bounds and what they rest on."""
    read = dev_server.run("plans", "get", "free", "--json").stdout
    shown = dev_server.run("plans", "simulate", "free", "--file", "-", stdin=read)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^burst +\d", shown.stdout, re.MULTILINE)
    assert "At best they were spread evenly" in shown.stdout
    found = json.loads(dev_server.run("plans", "simulate", "free", "--file", "-", "--json", stdin=read).stdout)
    assert [limit["limit"] for limit in found["limits"]] == ["burst", "daily"]
    assert found["complete"] is True
    wrong = dev_server.run("plans", "simulate", "free", "--file", "-", "--last", "soon", stdin=read)
    assert (wrong.returncode, "--last" in wrong.stderr) == (2, True)
    assert "PLAN_NOT_FOUND" in dev_server.run("plans", "simulate", "none", "--file", "-", stdin=read).stderr


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("{name: x}", "create.plan.limits: has 0 entries"),
        ("{name: x, limits: [{name: b}]}", "create.plan.limits[0]"),
        (
            "{name: x, limits: [{name: b, token_bucket: {capacity: 0, refill_tokens: 1, refill_period: 1s}}]}",
            "create.plan.limits[0].token_bucket.capacity: is 0",
        ),
        (
            (
                "{name: x, limits: ["
                "{name: b, quota: {amount: 1, window: DAY}}, {name: b, quota: {amount: 1, window: DAY}}]}"
            ),
            "create.plan.limits[1].name",
        ),
        ("{name: X Y, limits: [{name: b, quota: {amount: 1, window: DAY}}]}", "create.plan.name: is 'X Y'"),
        ("name: [", "standard input, line 1: "),
    ],
)
def test_a_bad_plan_names_its_field(dev_server: DevServer, plan: str, message: str) -> None:
    """An invalid plan is refused with exit code 2 and the path of the invalid field."""
    done = dev_server.run("plans", "create", "-", stdin=plan)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_overrides(dev_server: DevServer) -> None:
    """An override is set, listed with its expiry, and deleted; setting one takes a target and one kind of limit."""
    target = ("--subject", "overridden")
    bucket = ("--limit", "burst", "--capacity", "5", "--refill-tokens", "1", "--refill-period", "2s", "--calls")
    assert dev_server.run("overrides", "set", *target, *bucket, "--expires", "2099-01-01").returncode == 0
    quota = ("--limit", "extra", "--amount", "3", "--window", "hour", "--resource", "a.*", "--shadow")
    assert dev_server.run("overrides", "set", *target, *quota).returncode == 0
    listed = dev_server.run("overrides", "list", *target).stdout.splitlines()
    assert [re.split(r"  +", line) for line in listed[1:]] == [
        ["burst: 5 calls, 1 more every 2s", "2099-01-01 00:00:00Z"],
        ["extra: 3 an hour, for a.* (shadow)", "never"],
    ]
    left = json.loads(dev_server.run("overrides", "delete", *target, "--limit", "burst", "--yes", "--json").stdout)
    assert [override["limit"]["name"] for override in left["overrides"]] == ["extra"]
    assert dev_server.run("overrides", "delete", *target, "--limit", "burst").returncode == 3
    assert dev_server.run("overrides", "list").stderr.startswith("no target: give either")
    both = dev_server.run("overrides", "set", *target, *bucket, "--amount", "3")
    assert (both.returncode, both.stderr.startswith("give either --capacity")) == (2, True)


def test_tokens(dev_server: DevServer) -> None:
    """A viewer may read and not change; a revoked token is refused within a second; none is ever listed."""
    made = json.loads(dev_server.run("admin-tokens", "create", "reader", "--role", "viewer", "--json").stdout)
    token = made["token"]
    assert dev_server.run("plans", "list", "--token", token).returncode == 0
    refused = dev_server.run("plans", "delete", "pro", "--token", token)
    assert refused.returncode == 3
    assert "PERMISSION_DENIED ROLE_INSUFFICIENT" in refused.stderr
    assert dev_server.run("admin-tokens", "create", "reader", "--role", "viewer").returncode == 2
    listed = dev_server.run("admin-tokens", "list").stdout
    assert "reader" in listed
    assert token not in listed
    assert dev_server.run("admin-tokens", "revoke", "reader").returncode == 0
    assert any(dev_server.run("plans", "list", "--token", token).returncode == 3 for _ in range(5))
    assert dev_server.run("admin-tokens", "revoke", "reader").returncode == 2


def test_audit_lists_newest_first(dev_server: DevServer) -> None:
    """The list of changes has the newest first, page by page."""
    first = json.loads(dev_server.run("audit", "list", "--page-size", "2", "--json").stdout)
    second = json.loads(
        dev_server.run("audit", "list", "--page-size", "2", "--page-token", first["next_page_token"], "--json").stdout
    )
    numbers = [int(event["event_id"]) for event in first["events"] + second["events"]]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 4


def test_a_plan_that_cannot_be_read_is_shown_as_such(dev_server: DevServer) -> None:
    """What somebody broke past the API is not shown as a plan without limits, and explained as what one process knows.

    The audit log has what was valid last.
    """
    limits = "limits: [{name: hourly, quota: {amount: 100, window: HOUR}}]"
    assert dev_server.run("plans", "create", "-", stdin="{name: broken, " + limits + "}").returncode == 0
    with psycopg.connect(str(dev_server.state["database_url"])) as connection:
        connection.execute(
            "UPDATE plan_versions SET limits = '{}' WHERE plan_id = (SELECT plan_id FROM plans WHERE name = 'broken')"
        )
    try:
        shown = dev_server.run("plans", "get", "broken")
        assert re.search(r"^limit +cannot be read$", shown.stdout, re.MULTILINE), shown
        listed = {line.split()[0]: line for line in dev_server.run("plans", "list").stdout.splitlines()[1:]}
        assert "cannot be read" in listed["broken"]
        exported = dev_server.run("export")
        assert exported.returncode == 1
        for done in (shown, dev_server.run("plans", "get", "broken", "--json"), exported):
            assert done.stderr.startswith("plan broken cannot be read: "), done
            assert "audit list --target plans/broken" in done.stderr
        created = json.loads(
            dev_server.run("keys", "create", "--plan", "broken", "--subject", "broken", "--json").stdout
        )
        explained = dev_server.run("explain", created["key"]["key_id"]).stdout
        assert "would be denied: DEGRADED_DENIED" in explained
        assert "others go on by what was valid last" in explained
        assert '"amount": 100' in dev_server.run("audit", "list", "--target", "plans/broken", "--json").stdout
    finally:
        assert dev_server.run("plans", "update", "-", "--yes", stdin="{name: broken, " + limits + "}").returncode == 0
    assert dev_server.run("export").returncode == 0
