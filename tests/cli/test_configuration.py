"""Configuration in files: `apply`, `diff` and `export`, between two real servers."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from fixtures.dev_server import DevServer, make_dev_server
from fixtures.many_keys import insert_keys
from ratelimit_service.cli.client import Client
from ratelimit_service.cli.configuration.changes import Change, compare
from ratelimit_service.cli.configuration.documents import read_configuration
from ratelimit_service.cli.configuration.item import Kind
from ratelimit_service.cli.configuration.make import make
from ratelimit_service.cli.configuration.server import read_item, read_server
from ratelimit_service.cli.errors import CommandError, ConfirmationNeeded
from ratelimit_service.cli.target import Target
from ratelimit_service.devstores.state import read_peppers
from ratelimit_service.settings import Settings

KEY, OTHER_KEY, EXPIRED_KEY, FAILING = (f"AppliedKey00000{number}" for number in range(1, 5))
PLANS = """
# What a repository would have.
kind: Plan
name: team
description: "0o17: not a number"
limits:
- {name: burst, token_bucket: {capacity: 100, refill_tokens: 50, refill_period: 60s}}
- {name: monthly, resource: reports.*, quota: {amount: 1000000, window: MONTH}, mode: SHADOW, counts: CALLS}
- {name: budget, quota: {amount: 5, window: DAY}, overdraft: {unbounded: true}}
- {name: at-once, concurrency: {max: 3, default_hold: 30s}}
---
kind: Plan
name: small
limits: [{name: burst, quota: {amount: 10, window: MINUTE}}]
on_store_failure: DENY
"""
REST = f"""
kind: Override
subject: acme
limit: {{name: burst, quota: {{amount: 77, window: HOUR}}}}
expire_time: 2099-01-01T00:00:00Z
---
kind: Override
key_id: {KEY}
limit: {{name: extra, quota: {{amount: 3, window: DAY}}, resource: "a*"}}
---
kind: Key
key_id: {KEY}
subject: acme
plan: team
labels: {{team: search, tier: "1"}}
expire_time: 2099-01-01T00:00:00.5Z
state: SUSPENDED
---
kind: Key
key_id: {OTHER_KEY}
subject: "株式 {{x}}: 'y'"
plan: small
---
kind: Rules
domain: edge
charge: ALWAYS
descriptors:
- key: path
  value: /a*
  share_threshold: true
  limits: [{{name: burst, quota: {{amount: 9, window: DAY}}, replaces: [usual]}}]
  descriptors: [{{key: method, limits: [{{blocked: {{}}}}], on_store_failure: DENY}}]
- {{key: free, limits: [{{unlimited: {{}}}}]}}
"""


@pytest.fixture(scope="module")
def two_servers() -> Iterator[tuple[DevServer, DevServer]]:
    """Two servers, each with stores of its own."""
    servers = make_dev_server(transport="grpcio"), make_dev_server(transport="grpcio")
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(DevServer.start, servers))
        yield servers
    finally:
        for server in servers:
            server.close()


def run(server: DevServer, *arguments: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command, which is to exit with CODE."""
    done = server.run(*arguments, stdin=stdin)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def version(server: DevServer, plan: str) -> str:
    """The version of a plan that is in force."""
    return str(json.loads(run(server, "plans", "get", plan, "--json").stdout)["version"])


def test_from_files_to_a_server_and_on_to_another(two_servers: tuple[DevServer, DevServer], tmp_path: Path) -> None:
    """What files describe is made once; what is exported makes a second server the same, but for secrets."""
    first, second = two_servers
    files = tmp_path / "limits"
    (files / "more").mkdir(parents=True)
    (files / "plans.yaml").write_text(PLANS)
    (files / "more" / "rest.yml").write_text(REST)
    (files / ".hidden.yaml").write_text("no document")

    tried = run(first, "apply", "-f", str(files), "--dry-run")
    assert "+ plans/team" in tried.stdout
    assert tried.stderr.endswith("dry run: nothing was changed\n")
    assert "PLAN_NOT_FOUND" in run(first, "plans", "get", "team", code=3).stderr

    made = run(first, "apply", "-f", str(files)).stdout.splitlines()
    assert [line.split(" (")[0] for line in made] == [
        "+ plans/team",
        "+ plans/small",
        "+ domains/edge",
        f"+ keys/{KEY}",
        f"+ keys/{OTHER_KEY}",
        "+ subjects/acme/overrides/burst",
        f"+ keys/{KEY}/overrides/extra",
        "changes made: 7; documents that were as on the server already: 0",
    ]
    assert f"keys rotate {KEY}" in made[3]
    again = run(first, "apply", "-f", str(files), "--yes")
    assert again.stdout == "nothing to change: all 7 documents are as on the server\n"
    assert version(first, "team") == "1"

    exported = tmp_path / "exported"
    run(first, "export", "-o", str(exported))
    assert sorted(path.name for path in exported.iterdir()) == [
        "keys.yaml",
        "overrides.yaml",
        "plans.yaml",
        "rules.yaml",
    ]
    assert first.state["api_key"].rsplit("_", 1)[1] not in (exported / "keys.yaml").read_text()
    run(first, "diff", "-f", str(exported))
    whole = run(first, "export").stdout
    assert run(first, "apply", "-f", "-", stdin=whole).stdout.startswith("nothing to change")

    differs = run(second, "diff", "-f", str(exported), code=1).stdout
    assert "+++ plans/team" in differs
    assert "+  overdraft:" in differs
    demo = second.state["api_key"].split("_")[2]
    assert demo not in differs
    assert f"--- keys/{demo} on the server" in run(second, "diff", "-f", str(exported), "--prune", code=1).stdout
    refused = run(second, "apply", "-f", str(exported), "--prune", code=3).stderr
    assert f"  keys/{demo}\n" in refused
    assert refused.endswith("nothing was changed; repeat it with --yes to confirm it\n")
    assert "PLAN_NOT_FOUND" in run(second, "plans", "get", "team", code=3).stderr
    run(second, "apply", "-f", str(exported), "--prune", "--yes")
    assert run(second, "diff", "-f", str(exported), "--prune").stdout == ""
    copies = [run(server, "export").stdout for server in two_servers]
    assert copies[0] == copies[1]
    assert "state: SUSPENDED" in copies[1]

    run(second, "keys", "resume", KEY)
    secret = json.loads(run(second, "keys", "rotate", KEY, "--json").stdout)["secret"]
    assert run(second, "check", secret, "--cost", "0").stdout.startswith("allowed")
    assert f"key {KEY} of acme on plan team" in run(second, "explain", secret).stdout
    events = json.loads(run(second, "audit", "list", "--target", f"keys/{KEY}", "--json").stdout)["events"]
    assert [event["action"] for event in events] == [
        "key.rotate",
        "key.resume",
        "override.set",
        "key.suspend",
        "key.create",
    ]
    assert events[-1]["detail"]["without_secret"] is True


def test_what_has_to_be_confirmed_is_listed_and_asked_for_once(two_servers: tuple[DevServer, DevServer]) -> None:
    """Cuts of several things are shown together before anything is changed, and made with --yes."""
    server, _ = two_servers
    limits = "limits: [{name: hourly, quota: {amount: %d, window: HOUR}}]"
    rules = "descriptors: [{key: k, limits: [{name: n, quota: {amount: %d, window: DAY}}]}]"
    document = "{kind: Plan, name: cut-a, %s}\n---\n{kind: Plan, name: cut-b, %s}\n---\n{kind: Rules, domain: cut, %s}"
    wide, narrow = (
        document % (limits % amount, limits % amount, rules % amount)
        + "\n---\n{kind: Plan, name: new, "
        + limits % 1
        + "}"
        for amount in (100, 10)
    )
    run(server, "apply", "-f", "-", stdin=wide)
    run(server, "plans", "delete", "new")
    tried = run(server, "apply", "-f", "-", "--dry-run", stdin=narrow).stdout
    assert tried.count("has to be confirmed: plans/cut-") == 2
    refused = run(server, "apply", "-f", "-", code=3, stdin=narrow)
    assert refused.stderr.count("is cut by 90 %") == 3
    assert refused.stderr.splitlines()[0] == "These changes have to be confirmed:"
    assert "PLAN_NOT_FOUND" in run(server, "plans", "get", "new", code=3).stderr
    assert version(server, "cut-a") == "1"
    run(server, "apply", "-f", "-", "--yes", stdin=narrow)
    assert (version(server, "cut-a"), version(server, "cut-b"), version(server, "new")) == ("2", "2", "1")


def test_a_failure_says_what_was_made_and_what_was_not(two_servers: tuple[DevServer, DevServer]) -> None:
    """What fails first ends it: the changes before it are printed, and those that were not made are listed."""
    server, _ = two_servers
    overrides = "".join(
        f"---\n{{kind: Override, key_id: {FAILING}, limit: {{name: l{number:02}, quota: {{amount: 1, window: 1}}}}}}\n"
        for number in range(18)
    )
    key = f"{{kind: Key, key_id: {FAILING}, subject: failing, plan: free}}\n"
    failed = run(server, "apply", "-f", "-", code=2, stdin=key + overrides)
    assert failed.stdout.splitlines()[-1] == f"+ keys/{FAILING}/overrides/l15"
    assert failed.stderr.splitlines()[-3:] == [
        "17 of 19 changes were made, and these were not:",
        f"  + keys/{FAILING}/overrides/l16",
        f"  + keys/{FAILING}/overrides/l17",
    ]
    assert "more than the 16" in failed.stderr
    unknown = "{kind: Plan, name: not-made, limits: [{name: b, quota: {amount: 1, window: DAY}}]}\n---\n" + key.replace(
        "free", "no-such-plan"
    )
    refused = run(server, "apply", "-f", "-", code=3, stdin=unknown)
    assert f"standard input, line 3: keys/{FAILING}: there is no plan no-such-plan" in refused.stderr
    assert refused.stderr.endswith("nothing was changed\n")
    assert "PLAN_NOT_FOUND" in run(server, "plans", "get", "not-made", code=3).stderr


def test_keys_that_are_revoked_or_have_expired(two_servers: tuple[DevServer, DevServer]) -> None:
    """A revoked key is never made again, an expired one is not created, and both are reported and left alone."""
    server, _ = two_servers
    key = "{kind: Key, key_id: Revoked000000001, subject: gone, plan: free}\n---\n"
    run(server, "apply", "-f", "-", stdin=key)
    changed = run(server, "apply", "-f", "-", code=2, stdin=key.replace("gone", "other"))
    assert "the subject of a key never changes" in changed.stderr
    run(server, "keys", "revoke", "Revoked000000001")
    expired = f"{{kind: Key, key_id: {EXPIRED_KEY}, subject: gone, plan: free, expire_time: 2020-01-01T00:00:00Z}}"
    done = run(server, "apply", "-f", "-", stdin=key + expired)
    assert done.stdout.startswith("nothing to change")
    assert "line 1: keys/Revoked000000001 is revoked on the server, permanently; leave it out" in done.stderr
    assert f"line 3: keys/{EXPIRED_KEY} has expired, and is not created" in done.stderr


def test_an_export_does_not_resume_a_key_suspended_later(
    two_servers: tuple[DevServer, DevServer], tmp_path: Path
) -> None:
    """To apply what was exported before a suspension leaves the key suspended; only a file that says so resumes it."""
    server, _ = two_servers
    key = "{kind: Key, key_id: Leaked0000000001, subject: leaked, plan: free%s}"
    run(server, "apply", "-f", "-", stdin=key % "")
    run(server, "export", "-o", str(tmp_path))
    run(server, "keys", "suspend", "Leaked0000000001")
    assert run(server, "diff", "-f", str(tmp_path)).stdout == ""
    assert run(server, "apply", "-f", str(tmp_path), "--yes").stdout.startswith("nothing to change")
    assert run(server, "apply", "-f", "-", stdin=key % ", state: EXPIRED").stdout.startswith("nothing to change")
    exported = run(server, "export").stdout
    assert "key_id: Leaked0000000001\nsubject: leaked\nplan: free\nstate: SUSPENDED\n" in exported
    assert "state: ACTIVE" not in exported
    resumed = run(server, "apply", "-f", "-", stdin=key % ", state: ACTIVE")
    assert resumed.stdout.startswith("~ keys/Leaked0000000001: state\n")


def test_an_override_of_a_key_that_is_not_created_is_left_out(two_servers: tuple[DevServer, DevServer]) -> None:
    """What one server exports of an expired key can be applied on another: its override is reported, and not set."""
    first, second = two_servers
    run(
        first, "apply", "-f", "-",
        stdin="{kind: Key, key_id: Expiring00000001, subject: expiring, plan: free, "
        "expire_time: '2099-01-01T00:00:00Z'}\n---\n"
        "{kind: Override, key_id: Expiring00000001, limit: {name: b, quota: {amount: 1, window: DAY}}}\n---\n"
        "{kind: Override, subject: expiring, limit: {name: b, quota: {amount: 2, window: DAY}}}",
    )  # fmt: skip
    with psycopg.connect(first.state["database_url"]) as connection:  # no key is created that expires within seconds
        connection.execute("UPDATE keys SET expire_time = '2020-01-01' WHERE key_id = 'Expiring00000001'")
    exported = run(first, "export").stdout.split("---\n")
    documents = "---\n".join(each for each in exported if "xpiring" in each)
    assert documents.count("kind: ") == 3
    assert run(first, "diff", "-f", "-", stdin=documents).stdout == ""
    tried = run(second, "apply", "-f", "-", "--dry-run", stdin=documents)
    assert tried.stdout == "+ subjects/expiring/overrides/b\n"
    done = run(second, "apply", "-f", "-", stdin=documents)
    assert "keys/Expiring00000001 has expired, and is not created" in done.stderr
    assert "keys/Expiring00000001/overrides/b is for a key that is neither on the server nor created now" in done.stderr
    assert done.stdout.splitlines()[0] == "+ subjects/expiring/overrides/b"
    assert run(second, "diff", "-f", "-", stdin=documents).stdout == ""


OVERRIDE = "{kind: Override, subject: %s, limit: {name: b, quota: {amount: %d, window: DAY}}}"
MEANWHILE_KEY = "{kind: Key, key_id: %s, subject: meanwhile, plan: free%s}"
MEANWHILE_RULES = "{domain: meanwhile, descriptors: [{key: %s}]}"


@pytest.mark.parametrize(
    ("name", "before", "wanted", "meanwhile", "stdin"),
    [
        (
            "subjects/changed/overrides/b",
            OVERRIDE % ("changed", 10),
            OVERRIDE % ("changed", 11),
            ("overrides", "set", "--subject", "changed", "--limit", "b", "--amount", "12"),
            "",
        ),
        (
            "subjects/set/overrides/b",
            "",
            OVERRIDE % ("set", 10),
            ("overrides", "set", "--subject", "set", "--limit", "b", "--amount", "12"),
            "",
        ),
        (
            "subjects/pruned/overrides/b",
            OVERRIDE % ("pruned", 10),
            OVERRIDE % ("other", 10),
            ("overrides", "set", "--subject", "pruned", "--limit", "b", "--amount", "12"),
            "",
        ),
        (
            "keys/Meanwhile0000001",
            MEANWHILE_KEY % ("Meanwhile0000001", ""),
            MEANWHILE_KEY % ("Meanwhile0000001", ", state: SUSPENDED"),
            ("keys", "update", "Meanwhile0000001", "--description", "in use again"),
            "",
        ),
        (
            "keys/Meanwhile0000002",
            MEANWHILE_KEY % ("Meanwhile0000002", ", state: SUSPENDED"),
            MEANWHILE_KEY % ("Meanwhile0000002", ", state: ACTIVE"),
            ("keys", "update", "Meanwhile0000002", "--description", "leaked"),
            "",
        ),
        (
            "keys/Meanwhile0000003",
            MEANWHILE_KEY % ("Meanwhile0000003", ""),
            MEANWHILE_KEY % ("Meanwhile0000004", ""),
            ("keys", "update", "Meanwhile0000003", "--plan", "pro"),
            "",
        ),
        (
            "domains/meanwhile",
            "",
            "{kind: Rules, " + MEANWHILE_RULES[1:] % "wanted",
            ("rules", "replace", "-"),
            MEANWHILE_RULES % "meanwhile",
        ),
    ],
    ids=["an override", "a new override", "no override", "a suspension", "a resumption", "a revocation", "a domain"],
)
def test_what_somebody_changes_meanwhile_is_not_overwritten(  # noqa: PLR0917  a case
    two_servers: tuple[DevServer, DevServer],
    tmp_path: Path,
    name: str,
    before: str,
    wanted: str,
    meanwhile: tuple[str, ...],
    stdin: str,
) -> None:
    """A change is refused if its target is not what it was compared with, also where the API has no etag for it."""
    server, _ = two_servers
    if before:
        run(server, "apply", "-f", "-", stdin=before)
    file = tmp_path / "wanted.yaml"
    file.write_text(wanted)
    with Client(Target.choose(server.listen, server.state["admin_token"])) as client:

        def compared() -> Change:
            found = compare(read_configuration([file]), read_server(client), datetime.now(UTC))
            return next(change for change in (*found.changes, *found.only_there) if change.name == name)

        change = compared()
        run(server, *meanwhile, stdin=stdin)
        left = read_item(client, change.item)
        assert left is not None
        assert left.message not in [item.message for item in (change.old, change.new) if item]
        with pytest.raises(CommandError, match="was modified concurrently"):
            make(client, change, "")
        assert read_item(client, change.item) == left
        try:
            make(client, compared(), "")
        except ConfirmationNeeded as needed:
            make(client, compared(), needed.confirmation)
        assert read_item(client, change.item) != left


def test_more_than_10_000_keys_are_exported_and_applied(own_dev_server: DevServer, tmp_path: Path) -> None:
    """What a large installation exports is read again: it does not differ, and nothing is to be changed."""
    server = own_dev_server
    server.start()
    settings = Settings(
        database_url=SecretStr(server.state["database_url"]), peppers=SecretStr(read_peppers(server.data_dir))
    )
    insert_keys(settings, 10_500, "free")
    exported = run(server, "export", "-o", str(tmp_path))
    assert exported.stderr.startswith("wrote 10,503 documents to ")
    applied = run(server, "apply", "-f", str(tmp_path), "--prune", "--yes")
    assert applied.stdout == "nothing to change: all 10,503 documents are as on the server\n"


def test_every_command_can_be_tried(two_servers: tuple[DevServer, DevServer], tmp_path: Path) -> None:
    """With --dry-run a command is checked by the server, prints the result, and changes nothing and makes no secret."""
    server, _ = two_servers
    (tmp_path / "plans.yaml").write_text(PLANS)
    (tmp_path / "rest.yml").write_text(REST)
    run(server, "apply", "-f", str(tmp_path), "--yes")  # if another test has not
    before = run(server, "export").stdout
    plan = "{name: tried, limits: [{name: b, quota: {amount: 1, window: DAY}}]}"
    made = run(server, "plans", "create", "-", "--dry-run", stdin=plan)
    assert "tried" in made.stdout
    assert made.stderr == "dry run: nothing was changed\n"
    cut = "{name: free, limits: [{name: b, quota: {amount: 1, window: DAY}}]}"
    shown = run(server, "plans", "update", "-", "--dry-run", stdin=cut)
    assert "limit burst is removed" in shown.stderr
    assert re.search(r"^version +2$", shown.stdout, re.MULTILINE)
    created = run(server, "keys", "create", "--plan", "free", "--subject", "tried", "--dry-run", "--json").stdout
    assert json.loads(created)["secret"] == ""
    assert json.loads(run(server, "keys", "rotate", KEY, "--dry-run", "--json").stdout)["secret"] == ""
    for arguments in (
        ("keys", "revoke", KEY),
        ("keys", "resume", KEY),
        ("keys", "revoke", KEY, OTHER_KEY),
        ("keys", "update", KEY, "--description", "x"),
        ("overrides", "set", "--subject", "tried", "--limit", "b", "--amount", "1"),
        ("overrides", "delete", "--subject", "acme", "--limit", "burst"),
        ("rules", "delete", "edge"),
        ("enforcement", "off", "--for", "1m"),
        ("admin-tokens", "create", "tried", "--role", "admin"),
    ):
        assert "dry run" in run(server, *arguments, "--dry-run").stderr
    refused = run(server, "keys", "update", KEY, "--plan", "none", "--dry-run", code=3)
    assert "PLAN_NOT_FOUND" in refused.stderr
    assert run(server, "export").stdout == before
    assert "on, of every server" in run(server, "enforcement", "status").stdout
    assert "tried" not in run(server, "admin-tokens", "list").stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- kind: Plan", "line 1: a document is an object with a `kind`, not a list"),
        ("name: x", "line 1: kind is missing; begin the document with `kind: `"),
        ("kind: plan\nname: x", "line 1: kind is 'plan'; use one of Plan, Rules, Key, Override; did you mean `Plan`?"),
        ("# c\n\nkind: Plan\nname: x\nlimitz: []", "line 5: unknown field 'limitz'; did you mean `limits`?"),
        (
            "kind: Plan\nname: x\nlimits:\n- name: b\n  quota: {window: DAY,\n    amount: 0}",
            "line 6: limits[0].quota.amount: is 0",
        ),
        (
            "kind: Plan\nname: x\nlimits:\n- name: b\n  token_bucket:\n    capcity: 1",
            "line 6: unknown field 'capcity' in limits[0].token_bucket; did you mean `capacity`?",
        ),
        ("kind: Plan\nname: X Y\nlimits: [{name: b, quota: {amount: 1, window: DAY}}]", "line 2: name: is 'X Y'"),
        (
            "kind: Key\nsubject: a\nplan: free",
            "key_id: is missing, by which files and keys are matched; choose one, such",
        ),
        ("kind: Key\nkey_id: rlk_live_x\nsubject: a\nplan: free", "line 2: key_id: is not a key id"),
        (f"kind: Key\nkey_id: {KEY}\nsubject: a\nplan: free\nstate: REVOKED", "line 5: state: is REVOKED"),
        (f"kind: Key\nkey_id: {KEY}\nsubject: ' a'\nplan: free", "line 3: subject: begins with U+0020 SPACE"),
        ("kind: Override\nsubjekt: a\nlimit: {name: b}", "line 2: unknown field 'subjekt'; did you mean `subject`?"),
        ("kind: Override\nlimit: {name: b, quota: {amount: 1, window: DAY}}", "or subject: set one of them"),
        (
            "kind: Override\nsubject: a\nlimit:\n  name: b\n  quota: {amount: 0, window: DAY}",
            "line 5: limit.quota.amount: is 0",
        ),
        (
            "kind: Rules\ndomain: d\ndescriptors:\n- key: k\n  limits:\n  - {}",
            "line 6: descriptors[0].limits[0].algorithm",
        ),
        ("kind: Rules\ndomain: d\n---\nkind: Rules\ndomain: d", "line 4: domains/d is described before, in "),
        ("", "there is no document in "),
        ("a: &x 1", "line 1: "),
    ],
)
def test_a_mistake_has_its_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong with a document is reported where it stands, with the word that was meant perhaps."""
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        read_configuration([tmp_path])
    assert message in caught.value.lines[0]
    assert str(tmp_path) in caught.value.lines[0]


def test_documents_are_read_in_the_order_in_which_they_are_applied(tmp_path: Path) -> None:
    """Plans come first, then rules, keys and overrides, whatever the files; all defaults are filled in."""
    (tmp_path / "a.json").write_text(
        json.dumps(
            {"kind": "Override", "subject": "s", "limit": {"name": "b", "quota": {"amount": 1, "window": "DAY"}}}
        )
    )
    (tmp_path / "z.yaml").write_text(REST.partition("---\n")[2] + "---\n" + PLANS)
    items = read_configuration([tmp_path])
    assert [item.kind for item in items] == [Kind.PLAN] * 2 + [Kind.RULES] + [Kind.KEY] * 2 + [Kind.OVERRIDE] * 2
    small = next(item for item in items if item.name == "plans/small")
    assert small.document["limits"][0] == {
        "name": "burst",
        "resource": "*",
        "mode": "ENFORCE",
        "quota": {"amount": 10, "window": "MINUTE"},
        "counts": "COST",
    }
    with pytest.raises(CommandError, match="cannot read"):
        read_configuration([tmp_path / "none.yaml"])


def test_a_plan_that_keys_stay_on_is_not_removed(two_servers: tuple[DevServer, DevServer]) -> None:
    """It is refused before anything is changed; one whose keys are moved or revoked in the same run is removed.

    The last test, since it removes all else from the second server.
    """
    _, server = two_servers
    plan = "{kind: Plan, name: %s, limits: [{name: b, quota: {amount: 1, window: DAY}}]}\n---\n"
    key = "{kind: Key, key_id: Moved00000000001, subject: moved, plan: %s}"
    stays = key.replace("Moved00000000001", "Stays00000000001") + "\n---\n"
    run(server, "apply", "-f", "-", stdin=plan % "old" + stays % "old" + key % "old")
    before = run(server, "export").stdout
    for wanted in (plan % "new", plan % "new" + stays % "old" + key % "new"):
        for option in ("--yes", "--dry-run"):
            refused = run(server, "apply", "-f", "-", "--prune", option, code=3, stdin=wanted)
            assert "plans/old: is in no file, but stays the plan of " in refused.stderr
            assert "keys, such as keys/" in refused.stderr
            assert "nothing was changed\n" in refused.stderr
            assert refused.stdout == ""
    assert run(server, "export").stdout == before
    run(server, "apply", "-f", "-", "--prune", "--yes", stdin=plan % "new" + key % "new")
    plans = json.loads(run(server, "plans", "list", "--json").stdout)["plans"]
    assert [each["name"] for each in plans] == ["new"]
