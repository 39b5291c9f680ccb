"""The calculator of bench/capacity.py: what a load needs follows from the measured costs, and from nothing else."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "guides" / "capacity.md").read_text()


def module() -> ModuleType:
    """The calculator; the folder of benchmarks is no part of the package."""
    spec = importlib.util.spec_from_file_location("bench_capacity", ROOT / "bench" / "capacity.py")
    assert spec is not None
    assert spec.loader is not None
    found = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


capacity = module()
COSTS, FULL_MEMORY, Load, main, need = (
    getattr(capacity, name) for name in ("COSTS", "FULL_MEMORY", "Load", "main", "need")
)


def test_cores_follow_from_the_rate() -> None:
    """Twice the decisions take twice the cores, and a batch takes less than as many calls alone."""
    once, twice = need(Load(10_000)), need(Load(20_000))
    assert twice.worker_cores == pytest.approx(2 * once.worker_cores)
    assert once.worker_cores == pytest.approx(10_000 * COSTS["envoy", "unary"].server_us / 1e6)
    assert once.workers * capacity.FULL_WORKER >= once.worker_cores > (once.workers - 1) * capacity.FULL_WORKER
    assert (
        need(Load(10_000, calls="batch")).worker_cores
        < once.worker_cores
        < need(Load(10_000, transport="grpcio")).worker_cores
    )


def test_one_server_may_be_away() -> None:
    """Without the spare servers the others have workers enough; a small load has one server and the spare."""
    for decisions in (10.0, 30_000.0, 250_000.0):
        found = need(Load(decisions, spare=1), workers_each=4)
        assert (found.servers - 1) * found.workers_each >= found.workers
    assert need(Load(10)).servers == 2


def test_a_cluster_once_one_redis_is_not_enough() -> None:
    """The masters share what one may not do alone."""
    small, large = need(Load(1_000)), need(Load(200_000))
    assert (small.redis_masters, large.redis_masters > 1) == (1, True)
    assert large.redis_cores / large.redis_masters <= capacity.FULL_REDIS


def test_memory_of_redis() -> None:
    """Each part is a number of things times the bytes of one, and all of them leave room below maxmemory."""
    found = need(
        Load(1_000, keys=1_000, limits=3, values=500, request_share=0.5, request_window=30, open_reservations=200)
    )
    assert found.redis_parts["buckets of keys"] == 3_000 * capacity.BUCKET_BYTES
    assert found.redis_parts["buckets of values"] == 500 * capacity.BUCKET_BYTES
    assert found.redis_parts["requests"] == 1_000 * 0.5 * 30 * capacity.REQUEST_BYTES
    assert found.redis_parts["reservations"] == 200 * capacity.RESERVATION_BYTES
    assert found.redis_memory == pytest.approx(sum(found.redis_parts.values()) / FULL_MEMORY)


def test_size_of_postgres() -> None:
    """Usage grows with keys, resources and days; a row of days is kept until its month is over."""
    one, more = need(Load(100, keys=1_000)), need(Load(100, keys=1_000, resources=3, minute_days=30))
    assert one.postgres_parts["usage_day"] == 1_000 * (1_096 + 31) * capacity.ROW_BYTES["day"]
    assert more.postgres_size > 3 * one.postgres_size


@pytest.mark.parametrize(
    ("load", "workers_each", "words"),
    [
        (Load(-1), 2, "--decisions is -1; give 0 or more"),
        (Load(0), 2, "need at least 1"),
        (Load(1), 0, "need at least 1"),
        (Load(1, open_reservations=-5), 2, "--open-reservations is -5"),
        (Load(1, transport="quic"), 2, "--transport is envoy or grpcio"),
    ],
)
def test_what_is_no_load(load: object, workers_each: int, words: str) -> None:
    """It is refused, with the option."""
    with pytest.raises(ValueError, match=re.escape(words)):
        need(load, workers_each)


def test_the_guide_shows_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command of the guide is followed by what the calculator prints today."""
    command_and_output = r"^```sh\n\.venv/bin/python -m bench\.capacity ([^\n]*)\n```\n+```\n(.*?)^```$"
    shown = re.findall(command_and_output, GUIDE, re.MULTILINE | re.DOTALL)
    assert len(shown) >= 2
    for arguments, output in shown:
        main(arguments.split())
        assert capsys.readouterr().out == output


def test_the_guide_has_the_costs() -> None:
    """The tables of the guide are the figures that are computed with."""
    for (transport, calls), costs in COSTS.items():
        memory = f"{costs.server_mib:g} + {costs.worker_mib:g}"
        row = f"| {transport}, {calls} | {costs.server_us:g} | {costs.redis_us:g} | {memory} |"
        assert row in GUIDE, row
    sizes = {
        "a key and limit": capacity.BUCKET_BYTES,
        "a `request_id`": capacity.REQUEST_BYTES,
        "an open reservation": capacity.RESERVATION_BYTES,
        "a key and resource in a minute": capacity.COUNT_BYTES,
        "a key and resource in a day": capacity.RESOURCE_BYTES,
    }
    for what, size in sizes.items():
        assert re.search(rf"^\| {re.escape(what)}[^|]*\| {size} \|", GUIDE, re.MULTILINE), what
    for level, size in capacity.ROW_BYTES.items():
        assert f"| `usage_{level}` | {size} |" in GUIDE
    for store, connections in (("Postgres", capacity.POSTGRES_CONNECTIONS), ("Redis", capacity.REDIS_CONNECTIONS)):
        assert f"| {store} | {connections['server']} | {connections['worker']} |" in GUIDE
