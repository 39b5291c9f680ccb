"""The results, as a table and as JSON."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.bars import Bar
from bench.host import Host
from bench.measure import Measure

RESULTS: Final = Path(__file__).parent / "results"


def show(host: Host, measures: Sequence[Measure], bars: Sequence[Bar]) -> None:
    """Print the table and the bars."""
    console = Console(width=150)
    console.print("  ".join(f"{name}: {value}" for name, value in host._asdict().items()))
    table = Table("transport", "workers", "case", title="medians; CPU in seconds per million decisions")
    for name in ("decisions/s", "p50 ms", "p99 ms", "server CPU", "Redis CPU", "MiB", "failed"):
        table.add_column(name, justify="right")
    for one in measures:
        table.add_row(
            *(one.transport, str(one.workers), one.case, f"{one.decisions_per_second:,.0f}", f"{one.p50_ms:.2f}"),
            *(f"{one.p99_ms:.2f}", f"{one.server_cpu:.1f}", f"{one.redis_cpu:.1f}", f"{one.resident_mib:.0f}"),
            str(one.failed),
        )
    console.print(table)
    for bar in bars:
        console.print(str(bar))


def save(host: Host, measures: Sequence[Measure], bars: Sequence[Bar]) -> Path:
    """Write everything as JSON. Returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    results: dict[str, Any] = {
        "machine": host._asdict(),
        "measures": [one._asdict() for one in measures],
        "bars": [bar._asdict() | {"met": bar.met} for bar in bars],
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def save_page(text: str, path: Path | None) -> Path:
    """Write a page to PATH, or among the results. Returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = path or RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.md"
    path.write_text(text)
    return path
