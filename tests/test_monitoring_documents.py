"""What operators read and load: generated from the code, whole, and consistent with each other."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from docs.generate import dashboard
from faults.alert_rules import RULES, rules
from fixtures.pages import blocks
from ratelimit_service.metrics.catalogue import SECTIONS, Kind

ROOT = Path(__file__).parent.parent
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
CONTRACT = (ROOT / "clients" / "conformance" / "README.md").read_text()
LABELS_OF_CLIENTS = {f"ratelimit_{name}" for name in re.findall(r"`ratelimit\.([a-z]+)`", CONTRACT)}
METRICS = [described for section in SECTIONS.values() for described in section]


def promtool(folder: Path, *arguments: str) -> tuple[bool, str]:
    """Whether promtool finds everything right, and what it prints."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is missing; make test-tools installs it"
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def samples(text: str) -> set[str]:
    """The names of metrics that PromQL or a page has."""
    return set(re.findall(r"\bratelimit_[a-z_]+\b(?!\.)", text)) - {"ratelimit_service"} - LABELS_OF_CLIENTS


def known() -> set[str]:
    """The names of all samples of the catalogue."""
    names = set()
    for described in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if described.kind is Kind.HISTOGRAM else ("",)
        names |= {described.name + suffix for suffix in (*suffixes, "")}
    return names | of_clients()


def of_clients() -> set[str]:
    """The names of the clients' instruments in the contract, as OpenTelemetry has Prometheus name them."""
    names = set()
    for instrument, kind in re.findall(r"^\| `(ratelimit\.client\.\w+)`, (?:a|an) ([\w-]+)", CONTRACT, re.MULTILINE):
        name = instrument.replace(".", "_")
        if kind == "histogram":
            names |= {f"{name}_seconds{suffix}" for suffix in ("", "_bucket", "_sum", "_count")}
        else:
            names.add(name + {"counter": "_total", "up-down": ""}[kind])
    return names


def test_the_dashboard_is_fresh() -> None:
    """`make docs` would change nothing."""
    assert dashboard.FILE.read_text() == dashboard.dashboard()


def test_names_follow_the_conventions() -> None:
    """Counters end in _total and nothing else does; base units; each is described once."""
    names = [described.name for described in METRICS]
    assert len(set(names)) == len(names)
    for described in METRICS:
        assert re.fullmatch(r"ratelimit_[a-z]+(_[a-z]+)*", described.name)
        assert described.name.endswith("_total") == (described.kind is Kind.COUNTER)
        assert not re.search(r"milli|micro|percent|_ms|_kb|_mb", described.name)
        assert described.meaning.endswith((".", ")"))
        assert described.use.endswith((".", ")"))


def test_every_panel_is_explained() -> None:
    """It has a description, a unit and queries of metrics that exist, and lies beside the others."""
    panels = json.loads((ROOT / "deploy/grafana/ratelimit-service.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert samples(target["expr"]) <= known(), panel["title"]
            assert "{}" not in target["expr"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows[0] == "Is it well?"
    assert len(rows) == 10


def test_every_metric_of_the_clients_has_a_panel_and_a_row() -> None:
    """In the dashboard, and in the table for whoever makes one of their own."""
    panels = samples((ROOT / "deploy/grafana/ratelimit-service.json").read_text())
    table = samples((ROOT / "docs/metrics.md").read_text())
    assert len(of_clients()) == 9
    for name in of_clients() - {"ratelimit_client_duration_seconds", "ratelimit_client_duration_seconds_sum"}:
        assert name in panels, name
        assert name.removesuffix("_bucket").removesuffix("_count") in table, name


def test_the_queries_of_the_page_are_valid(tmp_path: Path) -> None:
    """As Prometheus reads them, each as a rule that records it, and of metrics that exist."""
    queries = re.findall(
        r"^\| [A-Z][^|`]*\? \| `((?:[^`|]|\\\|)+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
    )
    assert len(queries) >= 16
    expressions = [query.replace("\\|", "|") for query in queries]
    assert samples(" ".join(expressions)) <= known()
    rules_of_queries = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(expressions)]
    document = {"groups": [{"name": "queries", "rules": rules_of_queries}]}
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump(document))
    right, printed = promtool(tmp_path, "check", "rules", "queries.yaml")
    assert right, printed


def test_every_alert_is_explained_and_tested() -> None:
    """Each has a summary, a description, its part of the runbook, and a test in which it is quiet, then fires."""
    tests = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text())["tests"]
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in rules()]
    for rule in rules():
        name, annotations = rule["alert"], rule["annotations"]
        assert set(annotations) == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert samples(rule["expr"]) <= known(), name
        expected = [
            bool(each["exp_samples"])
            for test in tests
            for each in test["promql_expr_test"]
            if f'alertname="{name}"' in each["expr"] and 'alertstate="firing"' in each["expr"]
        ]
        assert set(expected) == {True, False}, name


def test_every_part_of_the_runbook_is_whole() -> None:
    """Callers, how to confirm, causes, now, afterwards, in this order; and metrics that exist."""
    parts = re.split(r"^### (\w+)$", RUNBOOK, flags=re.MULTILINE)[1:]
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        assert re.findall(r"^- \*\*(\w+)\*\*", text, re.MULTILINE) in (
            ["Callers", "Confirm", "Causes", "Now", "Afterwards"],
            ["Callers", "Confirm", "Causes", "Afterwards"],  # what to do now depends on the cause
        ), name
    assert samples(RUNBOOK) <= known()


def test_the_index_of_the_runbook_has_every_alert() -> None:
    """Each once, with its severity, and linked to its part."""
    index = RUNBOOK.split("\n## Alerts\n")[1].split("\n### ")[0]
    linked = [
        (severity, name, anchor)
        for severity, row in re.findall(r"^\| (page|ticket)\b(.*)$", index, re.MULTILINE)
        for name, anchor in re.findall(r"\[(\w+)\]\(#(\w+)\)", row)
    ]
    expected = [(rule["labels"]["severity"], rule["alert"], rule["alert"].lower()) for rule in rules()]
    assert sorted(linked) == sorted(expected)


def test_the_log_lines_that_documents_name_exist() -> None:
    """Whoever searches the log for what a page says finds it: the text is written somewhere in the code."""
    code = "".join(path.read_text() for path in (ROOT / "ratelimit_service").rglob("*.py") if "_gen" not in path.parts)
    named = {
        (str(path.relative_to(ROOT)), line)
        for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md"), *ROOT.glob("docs/errors/*.md")]
        for line in re.findall(r"\b(?:log (?:has|for)|the line) `([^`]+)`", path.read_text())
    }
    assert len(named) >= 6
    assert {(page, line) for page, line in named if line not in code} == set()


def test_metrics_that_other_documents_name_exist() -> None:
    """Those of every document, and of what is deployed."""
    missing = {
        (str(path.relative_to(ROOT)), name)
        for pattern in ("docs/*.md", "deploy/**/*.md", "deploy/**/*.yaml", "bench/*.md")
        for path in ROOT.glob(pattern)
        for name in re.findall(r"\bratelimit_\w+?_(?:total|seconds|ratio|bytes|info)\b", path.read_text())
        if name not in known()
    }
    assert missing == set()


def test_the_scrape_configuration_is_valid(tmp_path: Path) -> None:
    """As Prometheus reads it, with the rules beside it."""
    (configuration,) = blocks("docs/metrics.md", "yaml")
    (tmp_path / "prometheus.yaml").write_text(configuration)
    shutil.copy(RULES, tmp_path)
    right, printed = promtool(tmp_path, "check", "config", "prometheus.yaml")
    assert right, printed
    assert f"{len(rules())} rules found" in printed


def test_the_rules_are_valid() -> None:
    """As Prometheus reads them."""
    right, printed = promtool(RULES.parent, "check", "rules", "rules.yaml")
    assert right, printed
    assert f"{len(rules())} rules found" in printed


def test_each_alert_fires_and_is_quiet() -> None:
    """By the tests beside the rules."""
    right, printed = promtool(RULES.parent, "test", "rules", "rules_test.yaml")
    assert right, printed


def test_an_alert_that_never_fires_is_found(tmp_path: Path) -> None:
    """The tests beside the rules fail for it, and name it."""
    name = "RatelimitWorkersMissing"
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("ratelimit_workers < 1", "ratelimit_workers < 0"))
    tests = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text())
    tests["tests"] = [test for test in tests["tests"] if test["name"] == name]
    (tmp_path / "rules_test.yaml").write_text(yaml.safe_dump(tests))
    right, printed = promtool(tmp_path, "test", "rules", "rules_test.yaml")
    assert not right
    assert name in printed
