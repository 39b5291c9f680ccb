"""Write the reference of metrics in docs/metrics.md from the catalogue in the code. A test checks that it is fresh.

Usage: python docs/metrics_table.py     (or `make docs`)
"""

import re
from pathlib import Path

import yaml

from ratelimit_service.metrics.catalogue import SECTIONS, Described, Kind

DOCS = Path(__file__).parent
PAGE = DOCS / "metrics.md"
RULES = DOCS.parent / "deploy" / "prometheus" / "rules.yaml"
_TABLES = re.compile(r"(?<=<!-- metrics -->\n).*?(?=<!-- /metrics -->)", re.DOTALL)
_HEAD = "| metric | type, unit | labels | meaning | what to do with it |\n|---|---|---|---|---|"
_UNITS = {"seconds": "seconds", "bytes": "bytes", "ratio": "1 is all", "tokens": "tokens", "info": ""}


def metrics_tables() -> str:
    """The tables in Markdown: a section for each part of the service, a row for each metric."""
    alerts = _alerts()
    parts = []
    for title, metrics in SECTIONS.items():
        parts.append(f"### {title}\n\n{_HEAD}")
        parts.extend(_row(described, alerts) for described in metrics)
        parts.append("")
    return "\n".join(parts) + "\n"


def with_fresh_tables(page: str) -> str:
    """The page's text with the current tables."""
    return _TABLES.sub(lambda _: "\n" + metrics_tables(), page)


def _row(described: Described, alerts: dict[str, str]) -> str:
    unit = _unit(described.name)
    kind = described.kind.value if not unit else f"{described.kind.value}, {unit}"
    if described.kind is Kind.GAUGE:
        kind += f"; {described.across} of processes"
    sample = re.compile(rf"\b{described.name}(_bucket|_sum|_count)?\b")
    named = [name for name, expression in alerts.items() if sample.search(expression)]
    links = " ".join(f"[{name}](runbook.md#{name.lower()})" for name in named)
    use = f"{described.use} Alert: {links}." if links else described.use
    cells = (f"`{described.name}`", kind, "<br>".join(_labels(described)), described.meaning, use)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _labels(described: Described) -> list[str]:
    return [
        f"`{label}`: {values if isinstance(values, str) else ', '.join(f'`{value}`' for value in values)}"
        for label, values in described.labels.items()
    ]


def _unit(name: str) -> str:
    words = name.removesuffix("_total").split("_")
    return next((unit for word, unit in _UNITS.items() if word in words[1:]), "")


def _alerts() -> dict[str, str]:
    """The expression of each alert."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


if __name__ == "__main__":
    PAGE.write_text(with_fresh_tables(PAGE.read_text()))
