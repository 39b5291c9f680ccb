"""The rules of `deploy/prometheus/rules.yaml`, as far as one scrape shows whether they would fire."""

import re
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yaml"

_EXPRESSION: Final = re.compile(
    r"(?P<increase>increase\()?(?P<metric>\w+)(?:\{(?P<label>\w+)=\"(?P<value>\w+)\"\})?(?:\[\w+\]\))?"
    r" (?P<operator>[<>]) (?P<bound>[\d.]+)"
)
_SOON: Final = {None, "10s", "30s"}


def rules() -> list[dict[str, Any]]:
    """All alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def firing(metrics: str) -> set[str]:
    """The alerts that one scrape has the conditions of, of those that fire soon and need no rate.

    What has increased is taken to have begun at 0. The others are tested by promtool, in rules_test.yaml.
    """
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    found = set()
    for rule in rules():
        parts = _EXPRESSION.fullmatch(rule["expr"])
        if parts is None or rule.get("for") not in _SOON:
            continue
        values = [
            sample.value
            for sample in samples
            if sample.name == parts["metric"]
            and (not parts["label"] or sample.labels[parts["label"]] == parts["value"])
        ]
        assert values, f"{rule['alert']}: no server has a metric {parts['metric']}"
        bound = float(parts["bound"])
        if any(value > bound if parts["operator"] == ">" else value < bound for value in values):
            found.add(rule["alert"])
    return found
