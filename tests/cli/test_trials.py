"""`plans test` and `rules test`: what files would decide, without a server."""

import subprocess
from pathlib import Path

import pytest

from fixtures.dev_server import PROGRAM

DOCS = Path(__file__).parents[2] / "docs"


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line, with no server to call."""
    return subprocess.run(
        [str(PROGRAM), *arguments], input=stdin, capture_output=True, check=False, text=True, timeout=60
    )


def test_a_plan_decides_calls_that_come_at_once() -> None:
    """Of calls at once, the burst is allowed and the rest denied, by the limit that denies them and with its wait."""
    done = run("plans", "test", str(DOCS / "plan.yaml"), "--calls", "104")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "calls 1 to 100: allowed: WITHIN_LIMIT",
        "calls 101 to 104: denied: OVER_LIMIT, limit burst",
        "",
        "call 104: denied: OVER_LIMIT; limit burst, 0 left; retry after 20ms",
    ]
    assert [line.split()[:3] for line in lines[6:]] == [["burst", "0", "100"], ["monthly", "999,900", "1,000,000"]]


@pytest.mark.parametrize(
    ("options", "code", "shown"),
    [
        (
            ["--resource", "reports.export.pdf", "--calls", "21"],
            1,
            "call 21: denied: OVER_LIMIT; limit exports, 0 left",
        ),
        (["--cost", "101"], 1, "denied: COST_EXCEEDS_CAPACITY; limit burst, 100 left"),
        (["--cost", "0"], 0, "allowed: WITHIN_LIMIT; limit burst, 100 left"),
        (["--resource", "x" * 257], 2, "--resource: has 257 bytes"),
    ],
)
def test_calls_have_a_resource_and_a_cost(options: list[str], code: int, shown: str) -> None:
    """The limits of the resource apply, and take what a call costs."""
    done = run("plans", "test", str(DOCS / "plan.yaml"), *options)
    assert done.returncode == code
    assert shown in done.stdout + done.stderr


def test_rules_show_which_of_them_matched() -> None:
    """Each descriptor has the rule that it matched, the decision, and what its limits have left."""
    rules = str(DOCS / "rules.yaml")
    user = ("--descriptor", "path=/users/7/orders")
    done = run("rules", "test", rules, *user, "--hits", "50", "--descriptor", "masked_remote_address=10.1.2.3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] + lines[5:] == [
        "allowed, in domain shop",
        "",
        "path=/users/7/orders: rule path=/users/*/orders: allowed: WITHIN_LIMIT",
        "",
        "masked_remote_address=10.1.2.3: rule masked_remote_address=10.*: allowed: WITHIN_LIMIT, unlimited",
    ]
    assert [line.split()[:3] for line in lines[3:5]] == [["LIMIT", "LEFT", "OF"], ["orders", "0", "50"]]
    denied = run("rules", "test", rules, *user, "--hits", "51")
    assert (denied.returncode, "denied: COST_EXCEEDS_CAPACITY" in denied.stdout) == (1, True)
    assert "does not fit, ever" in denied.stdout
    nested = run("rules", "test", rules, "--descriptor", "path=/reports/a,method=GET").stdout
    assert "rule path=/reports/*/method: allowed" in nested
    nothing = run("rules", "test", rules, "--descriptor", "other=1").stdout
    assert "other=1: no rule, so that it passes: allowed" in nothing
    blocked = run("rules", "test", rules, "--descriptor", "masked_remote_address=192.0.2.5/32")
    assert (blocked.returncode, "denied: COST_EXCEEDS_CAPACITY, blocked" in blocked.stdout) == (1, True)


def test_a_comma_in_a_value_is_escaped() -> None:
    """A comma separates entries unless it has a backslash before it."""
    rules = "{kind: Rules, domain: d, descriptors: [{key: a, value: 'x,y', limits: [{blocked: {}}]}]}"
    assert run("rules", "test", "-", "--descriptor", r"a=x\,y", stdin=rules).returncode == 1
    wrong = run("rules", "test", "-", "--descriptor", "a=x,y", stdin=rules)
    assert (wrong.returncode, wrong.stderr.startswith("--descriptor: 'y' is no entry")) == (2, True)
    of_key = run("rules", "test", "-", "--descriptor", "api_key=x", stdin=rules)
    assert (of_key.returncode, "see `plans test`" in of_key.stderr) == (2, True)


def test_a_file_of_many_documents_has_one_of_the_kind() -> None:
    """A file as `apply` takes it is read too: the plan in it, if there is one."""
    key = "{kind: Key, key_id: AppliedKey000001, subject: a, plan: p}"
    plan = "{kind: Plan, name: p, limits: [{name: b, quota: {amount: 1, window: DAY}}]}"
    assert run("plans", "test", "-", stdin=f"{key}\n---\n{plan}").returncode == 0
    two = f"{plan}\n---\n{plan.replace('name: p', 'name: q')}"
    refused = run("plans", "test", "-", stdin=two)
    assert refused.returncode == 2
    assert refused.stderr == "standard input: holds 2 documents of kind Plan: p, q; name one of them with --plan\n"
    assert run("plans", "test", "-", "--plan", "q", stdin=two).returncode == 0
    bad = run("plans", "test", "-", stdin=plan.replace("amount: 1", "amount: 0"))
    assert bad.stderr.startswith("standard input, line 1: limits[0].quota.amount: is 0")
