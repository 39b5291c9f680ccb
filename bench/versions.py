"""`python -m bench.versions CHECKOUT`: this version beside another one, on the same stores, in alternating pairs.

CHECKOUT is a work tree of the other version with its `.venv`. Only one of the two servers has load at a time.
"""

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from bench.cases import Case, batched, described, unary
from bench.load import Load, whole_seconds
from bench.measure import Measure, measure
from bench.target import Target, serving
from bench.world import open_world

KEYS = 1_000


def pair(case: Case, targets: tuple[Target, Target], redis_pid: int, load: Load, *, swapped: bool) -> list[Measure]:
    """One measure of each version, the other first if SWAPPED."""
    order = (1, 0) if swapped else (0, 1)
    found = {index: measure(case, targets[index], redis_pid, load) for index in order}
    return [found[0], found[1]]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.versions", description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=whole_seconds, default=3, help="whole seconds per measure")
    parser.add_argument("--transport", default="envoy", choices=["envoy", "grpcio"])
    arguments = parser.parse_args()
    program = arguments.checkout / ".venv" / "bin" / "ratelimit-service"
    load = Load(seconds=arguments.seconds)
    with ExitStack() as stack:
        world = stack.enter_context(open_world(KEYS))
        this = stack.enter_context(serving(world.settings, arguments.transport, 1))
        other = stack.enter_context(serving(world.settings, arguments.transport, 1, program=program))
        for case in (unary(world), described(world), batched(world)):
            pairs = [
                pair(case, (this, other), world.valkey_pid, load, swapped=bool(number % 2))
                for number in range(arguments.pairs)
            ]
            rate = statistics.median(ours.decisions_per_second / its.decisions_per_second for ours, its in pairs)
            cpu = statistics.median(ours.server_cpu / its.server_cpu for ours, its in pairs)
            failed = sum(one.failed for both in pairs for one in both)
            ours = statistics.median(both[0].decisions_per_second for both in pairs)
            print(
                f"{arguments.transport}, {case.name}: {rate:.3f} of the other's decisions a second ({ours:,.0f}/s), "
                f"{cpu:.3f} of its CPU; {failed} failed",
                flush=True,
            )


if __name__ == "__main__":
    main()
