"""`python -m bench.denied CHECKOUT`: a denied call beside an allowed one of another version, and the transport alone.

CHECKOUT is a work tree of the other version with its `.venv`. Only one of the servers has load at a time, in turns; the
figures are medians of the ratios of each turn.
"""

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.cases import Case, described, empty, on_one_key, unary
from bench.load import Load, whole_seconds
from bench.measure import Measure, measure
from bench.target import Target, serving
from bench.target import empty as empty_server
from bench.world import open_world


class Ratio(NamedTuple):
    """One case per another, by their names, and the bar."""

    of: str
    per: str
    bar: float


RATIOS = (
    Ratio("denied", "other: allowed", 1.15),
    Ratio("denied", "empty handler", 0.90),
    Ratio("denied", "allowed", 1.0),
    Ratio("denied", "other: denied", 1.0),
    Ratio("RLS denied", "other: RLS allowed", 1.15),
    Ratio("RLS denied", "empty handler", 0.90),
    Ratio("allowed", "other: allowed", 0.97),
    Ratio("RLS allowed", "other: RLS allowed", 0.97),
)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.denied", description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=whole_seconds, default=3, help="whole seconds per measure")
    parser.add_argument("--transport", default="envoy", choices=["envoy", "grpcio"])
    arguments = parser.parse_args()
    program = arguments.checkout / ".venv" / "bin" / "ratelimit-service"
    load = Load(seconds=arguments.seconds)
    with ExitStack() as stack:
        world = stack.enter_context(open_world(1_000))
        this = stack.enter_context(serving(world.settings, arguments.transport, 1))
        other = stack.enter_context(serving(world.settings, arguments.transport, 1, program=program))
        nothing = stack.enter_context(empty_server(arguments.transport))
        _, denied = on_one_key(world)
        refused = described(world._replace(keys=[world.denied]))
        cases: dict[str, tuple[Case, Target]] = {
            "empty handler": (empty(), nothing),
            "denied": (denied, this),
            "other: allowed": (unary(world), other),
            "allowed": (unary(world), this),
            "other: denied": (denied, other),
            "RLS denied": (refused, this),
            "other: RLS allowed": (described(world), other),
            "RLS allowed": (described(world), this),
        }
        turns: list[dict[str, Measure]] = []
        for number in range(arguments.turns):
            order = list(cases) if number % 2 else list(reversed(cases))
            turns.append({name: measure(*cases[name], world.valkey_pid, load) for name in order})
    for name in cases:
        rates = [turn[name].decisions_per_second for turn in turns]
        cpu = statistics.median(turn[name].server_cpu for turn in turns)
        redis = statistics.median(turn[name].redis_cpu for turn in turns)
        failed = sum(turn[name].failed for turn in turns)
        print(
            f"{name}: {statistics.median(rates):,.0f}/s, CPU of the server {cpu:.1f} us, of Valkey {redis:.1f}; "
            f"{failed} failed"
        )
    for of, per, bar in RATIOS:
        ratio = statistics.median(turn[of].decisions_per_second / turn[per].decisions_per_second for turn in turns)
        cpu = statistics.median(turn[of].server_cpu / turn[per].server_cpu for turn in turns)
        print(f"{of} / {per}: {ratio:.3f} (bar {bar}), by CPU of the server {cpu:.3f}")


if __name__ == "__main__":
    main()
