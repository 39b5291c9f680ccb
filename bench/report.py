"""The results, as a table and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.bars import Bar
from bench.measure import Measure

RESULTS: Final = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """The machine that was measured on."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def show(facts: dict[str, object], measures: Sequence[Measure], bars: Sequence[Bar]) -> None:
    """Print the table and the bars."""
    console = Console(width=150)
    console.print("  ".join(f"{name}: {value}" for name, value in facts.items()))
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
        console.print(
            f"{'met   ' if bar.met else 'MISSED'} {bar.name}: {bar.value:.2f} (needs {bar.relation} {bar.bound:g})"
        )


def save(facts: dict[str, object], measures: Sequence[Measure], bars: Sequence[Bar]) -> Path:
    """Write everything as JSON. Returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    results: dict[str, Any] = {
        "machine": facts,
        "measures": [one._asdict() for one in measures],
        "bars": [bar._asdict() | {"met": bar.met} for bar in bars],
    }
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path
