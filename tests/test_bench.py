"""What the comparison of the benchmarks computes and shows; the measuring itself is not tested."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("envoy")  # has no wheel for some machines

from bench.bars import Bar
from bench.comparison import Sides, closed_loop, open_loop, rows
from bench.comparison_page import Comparison, Line, page
from bench.host import Host
from bench.load import Load
from bench.measure import Measure
from bench.peer import RULES
from bench.rows import Row, Turn, all_cpu, bars, own_cpu, p99, rate
from bench.target import Target
from bench.world import DENIED, DOMAIN, USER, World, rules_of_users
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.settings import Settings


def measured(rate: float = 1_000, p99_ms: float = 1, server_cpu: float = 10, redis_cpu: float = 5) -> Measure:
    """One measure, as far as the rows read it."""
    return Measure("envoy", 1, "case", rate, 0.5, p99_ms, server_cpu, redis_cpu, 100, 0)


def turn(of: Measure, per: Measure) -> Turn:
    """One turn of two cases."""
    return {"of": of, "per": per}


def test_a_row_is_the_median_of_the_ratios_of_each_turn() -> None:
    """Not the ratio of the medians: what slows a turn down slows both of its measures."""
    turns = [turn(measured(rate), measured(per)) for rate, per in ((100, 50), (10, 10), (3_000, 2_000))]
    assert list(bars([Row("row", "of", "per", rate, ">=", 1.2, 2.0)], turns)) == [
        (Bar("row", 1.5, ">=", 1.2, 2.0), 1.0, 2.0)
    ]


def test_a_row_whose_cases_were_not_measured_is_left_out() -> None:
    """Without a peer or an earlier version there are no figures of it."""
    assert list(bars([Row("row", "of", "ER: per", rate, ">=", 1)], [turn(measured(), measured())])) == []


def test_every_row_has_its_cases(tmp_path: Path) -> None:
    """Or it would be left out without a word. Those through an Envoy need one, and are named beside it."""
    one = Target(1, 1, "envoy", 1)
    world = World(Settings(), 1, 1, ["key"], "key", "key", "token")
    sides = Sides(one, one, one, one, one, one)
    cases = {*closed_loop(sides, world, tmp_path, Load()), *open_loop(sides, tmp_path, Load(), 1_000)}
    named = {name for row in rows(slow_memory=True) for name in (row.of, row.per)}
    assert {name for name in named - cases if not name.startswith("Envoy x")} == set()


def test_figures_of_cpu_and_latency() -> None:
    """CPU is of the server, or of the store as well; latency is that of the measure."""
    one = measured(p99_ms=7, server_cpu=10, redis_cpu=5)
    assert (own_cpu(one), all_cpu(one), p99(one)) == (10, 15, 7)


@pytest.mark.parametrize(("value", "verdict"), [(0.8, "missed"), (1.0, "met"), (1.3, "goal met")])
def test_verdict(value: float, verdict: str) -> None:
    """A bar may be met and its goal not."""
    assert Bar("bar", value, ">=", 1.0, 1.3).verdict == verdict


def test_slow_memory_lowers_the_bar_of_unary_calls() -> None:
    """The first row is that of 10,000 keys."""
    (slow, *_), (ample, *_) = rows(slow_memory=True), rows(slow_memory=False)
    assert [(row.bound, row.goal) for row in (slow, ample)] == [(1.0, 1.3), (1.5, 2.0)]


def test_the_peer_has_the_rules_of_the_service() -> None:
    """Like is compared with like."""
    config = yaml.safe_load(RULES.read_text())
    its = {
        one.get("value", ""): one["rate_limit"]["requests_per_unit"]
        for one in config["descriptors"]
        if one["key"] == USER and one["rate_limit"]["unit"] == "day"
    }
    assert config["domain"] == DOMAIN
    assert set(its) == {"", DENIED}
    for node in rules_of_users().descriptors:
        assert node.limits[0].algorithm == Quota(its[node.value], Window.DAY)


def test_the_page_has_each_row_and_figure() -> None:
    """With the machine, and the commands of the store for a decision."""
    host = Host("a processor", 2, "L3 32768K", {64: 80.4}, "Linux", "3.11.9", 0.5)
    line = Line("denied", 40_000, 3.1, 5.2, 20.5, 0.1, 0)
    bar = (Bar("row", 0.5, ">=", 1.0, 1.3), 0.4, 0.6)
    found = page(Comparison(host, 7, 2, [bar], [line], {"steady": {"get": 1.0}}, 30_000), {"keys": 1e6, "s": 2.54})
    for part in (
        "a processor, 2 cores, L3 32768K; an access to memory takes 80 ns among 64 MiB: ample caches",
        "| row | 0.50 | 0.40 to 0.60 | >= 1 | 1.3 | missed |",
        "| denied | 40,000 | 3.10 | 5.20 | 20.5 | 0.1 | 0 |",
        "- steady: get 1.00",
        "30,000/s",
        "| keys | 1,000,000 |",
        "| s | 2.5 |",
    ):
        assert part in found
