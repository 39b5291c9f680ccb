"""docs/reliability.md: the tests that it names exist, and every test of faults is named."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_the_tests_exist() -> None:
    """Each test that the page names is there, and each file of faults is named but for the proxy's own."""
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert {path for path in named if not (ROOT / path).exists()} == set()
    faults = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert faults - named == {"tests/faults/test_proxy.py"}
