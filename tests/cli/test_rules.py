"""`ratelimit-service rules ...` from end to end, against a real dev server."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from fixtures.dev_server import PROGRAM, DevServer
from ratelimit_service.management.rules import MAX_DOMAINS

EXAMPLES = Path(__file__).parents[1] / "rules_import" / "examples"
DOCS = Path(__file__).parents[2] / "docs"
RULES = """
domain: cli-shop
on_store_failure: LOCAL
descriptors:
- key: path
  value: /a*
  share_threshold: true
  limits:
  - {name: burst, token_bucket: {capacity: 5, refill_tokens: 2, refill_period: 1.5s}}
  - {name: daily, mode: SHADOW, quota: {amount: 9, window: DAY}, replaces: [usual]}
  descriptors:
  - {key: method, value: GET, limits: [{unlimited: {}}], on_store_failure: DENY}
  - {key: method, limits: [{name: none, blocked: {}}]}
- key: free
"""
TREE = """
path=/a*  (all values together)  burst: 5 tokens, 2 more every 1.5s; daily: 9 a day (shadow), replaces usual
  method=GET  unlimited  [store failure: DENY]
  method  none: blocked
free  passes
"""


def test_rules_live_in_a_file(dev_server: DevServer) -> None:
    """Rules are validated, put in force from a file, shown as a tree, updated by what was read before, and deleted."""
    checked = dev_server.run("rules", "replace", "--validate-only", "-", stdin=RULES)
    assert checked.returncode == 0, checked.stderr
    assert TREE in checked.stdout
    assert "RULES_NOT_FOUND" in dev_server.run("rules", "get", "cli-shop").stderr
    made = dev_server.run("rules", "replace", "-", stdin=RULES)
    assert made.returncode == 0, made.stderr
    assert TREE in made.stdout
    read = dev_server.run("rules", "get", "cli-shop", "--json").stdout
    again = json.loads(dev_server.run("rules", "replace", "-", "--json", stdin=read).stdout)
    assert (again["version"], again["descriptors"]) == ("2", json.loads(read)["descriptors"])
    late = dev_server.run("rules", "replace", "-", stdin=read)
    assert late.returncode == 3
    assert "ABORTED ETAG_MISMATCH" in late.stderr
    listed = dev_server.run("rules", "list").stdout.splitlines()
    assert listed[0].split()[:2] == ["DOMAIN", "VERSION"]
    assert any(line.split()[:3] == ["cli-shop", "2", "LOCAL"] for line in listed)
    assert json.loads(dev_server.run("rules", "get", "cli-shop", "--version", "1", "--json").stdout)["version"] == "1"
    assert dev_server.run("rules", "delete", "cli-shop", "--etag", "0000").returncode == 3
    assert dev_server.run("rules", "delete", "cli-shop", "--yes").returncode == 0
    assert dev_server.run("rules", "get", "cli-shop").returncode == 3


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("{domain: x, descriptors: [{}]}", "replace.rules.descriptors[0].key: is empty"),
        ("{domain: x, descriptors: [{key: k, limits: [{name: it's, blocked: {}}]}]}", 'limits[0].name: is "it\'s"'),
        (
            "{domain: x, descriptors: [{key: k, value: 'v '}]}",
            "replace.rules.descriptors[0].value: ends with U+0020 SPACE",
        ),
        ("{domain: x, descriptors: [{kay: k}]}", "line 1: unknown field 'kay' in descriptors[0]; did you mean `key`?"),
        ("domain: [", "standard input, line 1: "),
        ("[]", "must hold the rules of a domain, not a list"),
    ],
)
def test_bad_rules_name_the_field(dev_server: DevServer, rules: str, message: str) -> None:
    """Invalid rules are refused with exit code 2, and nothing is in force."""
    done = dev_server.run("rules", "replace", "-", stdin=rules)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "RULES_NOT_FOUND" in dev_server.run("rules", "get", "x").stderr


def test_dry_run_calls_no_server(dev_server: DevServer) -> None:
    """A dry run shows the result and the differences, without a server."""
    files = [str(EXAMPLES / f"{name}.yaml") for name in ("2_nested", "8_detailed_metric")]
    done = dev_server.run("rules", "import", "--dry-run", *files, RATELIMIT_SERVER="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "kind=offer\n  recipient  5 a day\nrecipient  100 a day\n" in done.stdout
    assert done.stderr == f"{files[1]}:5: note: detailed_metric is left out: metrics here do not name descriptors\n"
    buckets = dev_server.run("rules", "import", "--dry-run", "--as", "token-bucket", files[0])
    assert "recipient  100 tokens, 100 more every 1d" in buckets.stdout
    as_json = json.loads(dev_server.run("rules", "import", "--dry-run", "--json", files[0]).stdout)
    assert as_json["descriptors"][1]["limits"][0]["quota"] == {"amount": "100", "window": "DAY"}


def test_import_puts_in_force(dev_server: DevServer) -> None:
    """An import replaces the rules of each domain, in force at once."""
    files = [str(EXAMPLES / f"{name}.yaml") for name in ("3_order", "6_shadow")]
    for version in ("1", "2"):
        done = dev_server.run("rules", "import", *files)
        assert done.returncode == 0, done.stderr
        assert json.loads(dev_server.run("rules", "get", "edge", "--json").stdout)["version"] == version
    assert "address=192.0.2.5  blocked" in done.stdout
    assert "user=ann  10 a second (shadow)" in done.stdout
    audited = dev_server.run("audit", "list", "--target", "domains/edge")
    assert audited.stdout.count("rules.replace") == 2, audited.stderr


def test_an_error_imports_nothing(dev_server: DevServer, tmp_path: Path) -> None:
    """If one line of one file cannot be read, nothing of any file is put in force, and each error has its line."""
    good, bad, binary = (tmp_path / name for name in ("good.yaml", "bad.yaml", "binary.yaml"))
    good.write_text("domain: cli-good\n")
    bad.write_text("domain: cli-bad\ndescriptors:\n- key: k\n  rate_limit: {unit: eon}\n  valeu: x\n")
    binary.write_bytes(b"\xff\xfe\x00")
    done = dev_server.run("rules", "import", str(good), str(bad))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{bad}:4: error: unit is 'eon'" in done.stderr
    assert f"{bad}:5: error: unknown key 'valeu' in a descriptor" in done.stderr
    assert done.stderr.endswith("nothing was imported\n")
    assert "RULES_NOT_FOUND" in dev_server.run("rules", "get", "cli-good").stderr
    done = dev_server.run("rules", "import", str(binary))
    assert (done.returncode, done.stderr) == (2, f"{binary}: is not UTF-8 text\n")


IMPORTED = "domain: %s\ndescriptors:\n- key: k\n  rate_limit: {unit: hour, requests_per_unit: %d}\n"


def test_domains_are_imported_together(dev_server: DevServer, tmp_path: Path) -> None:
    """What has to be confirmed in any of the files is shown before the first domain is changed, and made with --yes."""
    files = [tmp_path / f"{number}.yaml" for number in range(3)]

    def write(*amounts: int) -> None:
        for number, (file, amount) in enumerate(zip(files, amounts, strict=True)):
            file.write_text(IMPORTED % (f"together-{number}", amount))

    def versions() -> list[str]:
        names = [f"together-{number}" for number in range(3)]
        shown = [dev_server.run("rules", "get", name, "--json").stdout for name in names]
        return [json.loads(each)["version"] for each in shown]

    write(100, 100, 100)
    done = dev_server.run("rules", "import", *map(str, files))
    assert (done.returncode, done.stderr) == (0, "")
    write(101, 10, 20)
    refused = dev_server.run("rules", "import", *map(str, files))
    assert (refused.returncode, refused.stdout) == (3, "")
    assert versions() == ["1", "1", "1"]
    assert refused.stderr.splitlines()[0] == "These changes have to be confirmed:"
    assert [line.split(":")[0] for line in refused.stderr.splitlines() if "is cut by" in line] == [
        "  domains/together-1",
        "  domains/together-2",
    ]
    assert refused.stderr.endswith("nothing was changed; repeat it with --yes to confirm it\n")
    done = dev_server.run("rules", "import", "--yes", *map(str, files))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("domain ")] == [
        f"together-{number}" for number in range(3)
    ]
    assert versions() == ["2", "2", "2"]


def test_an_import_that_fails_lists_what_was_not_imported(own_dev_server: DevServer, tmp_path: Path) -> None:
    """What the server refuses alone changes nothing; of what fails once others are made, the rest is listed."""
    files = [tmp_path / f"{number}.yaml" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(IMPORTED % (f"new-{number}", 1))
    own_dev_server.start()
    with psycopg.connect(own_dev_server.state["database_url"]) as connection:
        connection.execute(
            "WITH made AS (INSERT INTO rule_domains (domain, version, create_time) SELECT 'stored-' || n, 1, now() "
            "FROM generate_series(1, %s) AS n RETURNING domain_id) "
            "INSERT INTO rule_versions (domain_id, version, descriptors, on_store_failure, description, create_time) "
            "SELECT domain_id, 1, '[]', 'local', '', now() FROM made",
            (MAX_DOMAINS - 1,),
        )
    failed = own_dev_server.run("rules", "import", *map(str, files))
    assert failed.returncode == 2
    assert [line.split() for line in failed.stdout.splitlines() if line.startswith("domain ")] == [["domain", "new-0"]]
    assert "domains/new-1: replace.rules.domain: is new, and 1,000 domains have rules already" in failed.stderr
    assert failed.stderr.splitlines()[-3:] == [
        "1 of 3 changes were made, and these were not:",
        "  domains/new-1",
        "  domains/new-2",
    ]
    refused = own_dev_server.run("rules", "import", str(files[0]), str(files[1]))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.endswith("nothing was changed\n")
    assert json.loads(own_dev_server.run("rules", "get", "new-0", "--json").stdout)["version"] == "1"


def test_a_replacement_can_be_tried(dev_server: DevServer) -> None:
    """With --dry-run a cut is shown and not asked for: the exit code is 0, and the rules stay as they are."""
    rules = "{domain: tried, descriptors: [{key: k, limits: [{name: n, quota: {amount: %d, window: DAY}}]}]}"
    assert dev_server.run("rules", "replace", "-", stdin=rules % 100).returncode == 0
    tried = dev_server.run("rules", "replace", "-", "--dry-run", stdin=rules % 10)
    assert tried.returncode == 0, tried.stderr
    assert tried.stderr.splitlines()[0] == "This change has to be confirmed:"
    assert "is cut by 90 %" in tried.stderr
    assert tried.stderr.endswith("dry run: nothing was changed\n")
    assert "n: 10 a day" in tried.stdout
    assert json.loads(dev_server.run("rules", "get", "tried", "--json").stdout)["version"] == "1"


def test_the_documented_rules(dev_server: DevServer) -> None:
    """The rules in docs/ are valid, and match the comments beside them."""
    done = dev_server.run("rules", "replace", "--validate-only", str(DOCS / "rules.yaml"))
    assert done.returncode == 0, done.stderr
    tree = done.stdout.split("\n\n")[1].splitlines()
    assert tree == [
        "masked_remote_address  burst: 20 tokens, 10 more every 1s; daily: 10,000 a day",
        "masked_remote_address=192.0.2.5/32  blocked",
        "masked_remote_address=10.*  unlimited",
        "path=/reports/*  (all values together)",
        "  method  reports: 100 an hour  [store failure: DENY]",
        "path=/users/*/orders  orders: 50 a minute",
        "plan=trial  trial: 5 tokens, 1 more every 1s (shadow), replaces burst",
    ]


def test_the_guide_from_envoyproxy_ratelimit(dev_server: DevServer, tmp_path: Path) -> None:
    """Every command of the guide works, pasted in order: limits are in shadow first, and in force after the switch."""
    config = tmp_path / "config"
    config.mkdir()
    for name, file in (("2_nested", "letters"), ("8_detailed_metric", "measured")):
        shutil.copy(EXAMPLES / f"{name}.yaml", config / f"{file}.yaml")
    guide = (DOCS / "migrate-from-envoyproxy-ratelimit.md").read_text()
    done = subprocess.run(
        ["sh", "-eu"],
        input="".join(re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)),
        env=dev_server.environment | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    note = "config/measured.yaml:5: note: detailed_metric is left out: metrics here do not name descriptors\n"
    assert done.stderr.count(note) == 3
    assert "allowed, in domain letters" in done.stdout
    shown = re.findall(r"kind=offer\n  recipient  5 a day(.*)\nrecipient  100 a day(.*)\n", done.stdout)
    assert shown == [("", ""), (" (shadow)", " (shadow)"), ("", "")]
    assert "(shadow)" not in dev_server.run("rules", "get", "letters").stdout
