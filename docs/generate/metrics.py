"""The tables of `docs/metrics.md`, from the catalogue of the metrics and the alerts that go by them.

The rest of the page is written by hand.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from docs.generate.markdown import cell
from ratelimit_service.metrics.catalogue import SECTIONS, Described, Kind

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_PAGE: Final = "metrics.md"
_RULES: Final = _ROOT / "deploy" / "prometheus" / "rules.yaml"
_TABLES: Final = re.compile(r"(?<=<!-- metrics -->\n).*?(?=<!-- /metrics -->)", re.DOTALL)
_HEAD: Final = "| metric | type, unit | labels | meaning | what to do with it |\n|---|---|---|---|---|"
_UNITS: Final = {"seconds": "seconds", "bytes": "bytes", "ratio": "1 is all", "tokens": "tokens", "info": ""}


def pages() -> dict[str, str]:
    """The page with fresh tables: one for each part of the service, with a row for each metric."""
    text = (_ROOT / "docs" / _PAGE).read_text(encoding="utf-8")
    return {_PAGE: _TABLES.sub(lambda _: "\n" + _tables(), text)}


def _tables() -> str:
    alerts = _alerts()
    parts = []
    for title, metrics in SECTIONS.items():
        parts.append(f"### {title}\n\n{_HEAD}")
        parts.extend(_row(described, alerts) for described in metrics)
        parts.append("")
    return "\n".join(parts) + "\n"


def _row(described: Described, alerts: Mapping[str, str]) -> str:
    unit = _unit(described.name)
    kind = described.kind.value if not unit else f"{described.kind.value}, {unit}"
    if described.kind is Kind.GAUGE:
        kind += f"; {described.across} of processes"
    sample = re.compile(rf"\b{described.name}(_bucket|_sum|_count)?\b")
    named = [name for name, expression in alerts.items() if sample.search(expression)]
    links = " ".join(f"[{name}](runbook.md#{name.lower()})" for name in named)
    use = f"{described.use} Alert: {links}." if links else described.use
    labels = "<br>".join(cell(label) for label in _labels(described))
    return f"| `{described.name}` | {kind} | {labels} | {cell(described.meaning)} | {cell(use)} |"


def _labels(described: Described) -> list[str]:
    return [
        f"`{label}`: {values if isinstance(values, str) else ', '.join(f'`{value}`' for value in values)}"
        for label, values in described.labels.items()
    ]


def _unit(name: str) -> str:
    words = name.removesuffix("_total").split("_")
    return next((unit for word, unit in _UNITS.items() if word in words[1:]), "")


def _alerts() -> dict[str, str]:
    """The expression of each alert, by its name."""
    groups = yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
