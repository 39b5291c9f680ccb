"""The Helm chart, as far as it can be checked without helm: rendered_chart.py renders it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from deploy.files import CHART, DEPLOY, SECRETS, SETTINGS, VERSION

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
VALUE_FILES = sorted((Path(__file__).parent / "values").glob("*.yaml"))


def changed(path: str, value: object) -> dict[str, Any]:
    """The values with one of them set, as by `--set PATH=VALUE`."""
    values = copy.deepcopy(VALUES)
    *parents, name = path.split(".")
    target = values
    for parent in parents:
        target = target[parent]
    target[name] = value
    return values


def errors(values: dict[str, Any]) -> list[str]:
    """What the schema has against these values."""
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(values)]


def test_there_is_one_version() -> None:
    """The chart and the application in it have the version of the package."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_values_fit_the_schema() -> None:
    """Those of the chart, and those of each file that rendered_chart.py renders it with."""
    Draft7Validator.check_schema(SCHEMA)
    assert errors(VALUES) == []
    assert len(VALUE_FILES) >= 3
    for path in VALUE_FILES:
        assert errors(yaml.safe_load(path.read_text())) == [], path.name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replica", 3),
        ("secret.existingSecrets", "limits"),
        ("drainTimeout", 301),
        ("workers", 65),
        ("transport", "http"),
        ("control.separate", "yes"),
        ("settings", {"RATELIMIT_PLANE": "control"}),
        ("settings", {"RATELIMIT_STORE_TIMOUT": "0.05"}),
        ("settings", {"RATELIMIT_REDIS_URL": "redis://a"}),
        ("settings", {"RATELIMIT_LISTEN": "0.0.0.0:1"}),
        ("settings", {"RATELIMIT_STORE_TIMEOUT": 0.05}),
        ("resources.limits", {"memory": "1 GB"}),
        ("networkPolicy.gateways", [{}]),
        ("tls.gatewayCertificates", ["gateway.example.com"]),
        ("podDisruptionBudget.maxUnavailable", 0),
    ],
)
def test_mistakes_are_refused(path: str, value: object) -> None:
    """What is misspelt, out of bounds, set elsewhere, or would lock everybody out."""
    assert errors(changed(path, value)) != []


def described(schema: dict[str, Any]) -> set[str]:
    """The paths of the values that a schema describes, without those below what may have any name."""
    schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    found = set()
    for name, part in schema.get("properties", {}).items():
        found |= {name, *(f"{name}.{below}" for below in described(part))}
    return found


def paths(values: dict[str, Any]) -> set[str]:
    """The paths of all values."""
    found = set()
    for name, value in values.items():
        found |= {name, *(f"{name}.{below}" for below in paths(value if isinstance(value, dict) else {}))}
    return found


def test_every_value_is_described_and_used() -> None:
    """The schema and values.yaml have the same values, and templates use each, and no other."""
    free = re.compile(r"(.*[rR]esources\.(requests|limits)|networkPolicy\.\w+\.\w+)\..*")
    names = {path for path in paths(VALUES) if not free.match(path)}
    assert names == {path for path in described(SCHEMA) if not free.match(path) and path != "global"}
    used = {match.rstrip(".") for text in TEMPLATES.values() for match in re.findall(r"\.Values\.([\w.]+)", text)}
    assert used - names == set()
    assert {name.partition(".")[0] for name in names} == {name.partition(".")[0] for name in used}


def test_every_setting_is_set_in_one_place() -> None:
    """Templates set settings that exist; `settings` takes all others but the secrets, and the folder of `dev`."""
    named = set(re.findall(r"RATELIMIT_[A-Z_]+[A-Z]", "".join(TEMPLATES.values())))
    of_commands = {"RATELIMIT_ADMIN_SERVER", "RATELIMIT_SERVER_CA", "RATELIMIT_TOKEN", "RATELIMIT_SERVICE"}
    of_templates = named - of_commands
    assert of_templates - SETTINGS == set()
    assert of_templates >= SECRETS
    free = set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"])
    assert free == SETTINGS - of_templates - {"RATELIMIT_DATA_DIR"}


def test_secrets_are_references_only() -> None:
    """No template makes a Secret, and each secret setting is a reference."""
    text = "".join(TEMPLATES.values())
    assert not re.search(r"^kind: Secret$", text, re.MULTILINE)
    for name in SECRETS:
        lines = [line for line in text.splitlines() if f'"{name}"' in line or f"name: {name}" in line]
        assert lines, name
        assert all('include "ratelimit-service.fromSecret"' in line for line in lines), name


def test_the_alerts_are_those_of_the_repository() -> None:
    """The chart's rules are a link to deploy/prometheus/rules.yaml, whose content helm packs."""
    assert (CHART / "rules.yaml").is_symlink()
    assert (CHART / "rules.yaml").resolve() == (DEPLOY / "prometheus" / "rules.yaml").resolve()
