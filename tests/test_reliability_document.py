"""docs/reliability.md: the tests that it names exist, and every alert has its part of the runbook, and no other."""

import re
from pathlib import Path

from faults.alert_rules import expressions

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_the_tests_exist() -> None:
    """Each test that the page names is there, and each file of faults is named but for the proxy's own."""
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert {path for path in named if not (ROOT / path).exists()} == set()
    faults = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert faults - named == {"tests/faults/test_proxy.py"}


def test_every_alert_is_explained() -> None:
    """The headings of the runbook are the alerts of deploy/prometheus."""
    assert re.findall(r"^### (\w+)$", TEXT, re.MULTILINE) == list(expressions())


def test_every_alert_links_its_part() -> None:
    """Its annotations have the address of its part of the runbook."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text()
    for alert in expressions():
        assert f"runbook: docs/reliability.md#{alert.lower()}\n" in rules, alert
