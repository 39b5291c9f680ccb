"""The rules of `deploy/prometheus/rules.yaml`, as far as one scrape shows whether they would fire."""

import re
from pathlib import Path
from typing import Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules.yaml"

_EXPRESSION: Final = re.compile(
    r"(?P<increase>increase\()?(?P<metric>\w+)(?:\{(?P<label>\w+)=\"(?P<value>\w+)\"\})?(?:\[\w+\]\))?"
    r" (?P<operator>[<>]) (?P<bound>[\d.]+)"
)


def expressions() -> dict[str, str]:
    """The expression of each alert."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def firing(metrics: str) -> set[str]:
    """The alerts that one scrape has the conditions of. What has increased is taken to have begun at 0."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    found = set()
    for alert, expression in expressions().items():
        parts = _EXPRESSION.fullmatch(expression)
        assert parts is not None, f"{alert}: this test cannot read {expression}"
        values = [
            sample.value
            for sample in samples
            if sample.name == parts["metric"]
            and (not parts["label"] or sample.labels[parts["label"]] == parts["value"])
        ]
        assert values, f"{alert}: no server has a metric {parts['metric']}"
        bound = float(parts["bound"])
        if any(value > bound if parts["operator"] == ">" else value < bound for value in values):
            found.add(alert)
    return found
