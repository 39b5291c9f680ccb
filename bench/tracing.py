"""`python -m bench.tracing`: servers with and without tracing, and with the access log, on the same stores, in turns.

Only one of the servers has load at a time. The collector takes what they send and reads none of it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, NamedTuple

from bench.cases import Case, batched, described, unary
from bench.load import Load
from bench.measure import Usage
from bench.target import Target, await_port, free_port, running, serving
from bench.world import open_world

KEYS: Final = 1_000
OFF: Final = "off"
CASES: Final = {"unary": unary, "described": described, "batched": batched}


def variants(endpoint: str) -> Mapping[str, Mapping[str, object]]:
    """The settings of each server, by what it is called."""
    return {
        OFF: {},
        "1 % traced": {"otlp_endpoint": endpoint, "trace_sampling": 0.01},
        "all traced": {"otlp_endpoint": endpoint, "trace_sampling": 1.0},
        "1 % logged": {"access_log_sampling": 0.01, "log_format": "json", "log_level": "info"},
    }


class Round(NamedTuple):
    """What one server did with so many calls: decisions a second, and microseconds of CPU of the server for each."""

    rate: float
    cpu_us: float
    p99_ms: float
    failed: int


def measured(case: Case, target: Target, load: Load) -> Round:
    """One round."""
    before = Usage.of(target.pid).cpu_seconds
    result = case.run(target.port, load)
    cpu = Usage.of(target.pid).cpu_seconds - before
    decisions = result.answered * case.decisions
    return Round(decisions / result.seconds, cpu / decisions * 1e6, result.p99_ms, result.failed)


def turn(case: Case, targets: Mapping[str, Target], load: Load, number: int) -> dict[str, Round]:
    """One round of each server, each time another one first."""
    names = list(targets)
    order = names[number % len(names) :] + names[: number % len(names)]
    return {name: measured(case, targets[name], load) for name in order}


def report(case: Case, turns: list[dict[str, Round]], name: str) -> str:
    """What a server did beside the one without tracing."""
    rate = statistics.median(one[name].rate / one[OFF].rate for one in turns)
    cpu = statistics.median(one[name].cpu_us / one[OFF].cpu_us for one in turns)
    done, cpu_us, p99 = (statistics.median(one[name][field] for one in turns) for field in range(3))
    failed = sum(one[name].failed for one in turns)
    return (
        f"{case.name}, {name}: {rate:.3f} of the decisions a second ({done:,.0f}/s), {cpu:.3f} of the CPU "
        f"({cpu_us:.1f} us), p99 {p99:.1f} ms; {failed} failed"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracing", description=__doc__)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--calls", type=int, default=100_000, help="of each round; of batches a tenth")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--transport", default="envoy", choices=["envoy", "grpcio"])
    parser.add_argument("--only", nargs="*", default=[], help="names of servers besides the one without tracing")
    parser.add_argument("--cases", nargs="*", default=[*CASES], choices=[*CASES])
    arguments = parser.parse_args()
    load, port = Load(connections=arguments.connections, calls=arguments.calls), free_port()
    with ExitStack() as stack:
        world = stack.enter_context(open_world(KEYS))
        collector = [sys.executable, "-m", "bench.collector", str(port)]
        await_port(port, stack.enter_context(running(collector, os.environ)))
        targets = {
            name: stack.enter_context(serving(world.settings.model_copy(update=dict(changes)), arguments.transport, 1))
            for name, changes in variants(f"http://127.0.0.1:{port}").items()
            if name == OFF or not arguments.only or name in arguments.only
        }
        for case in (CASES[name](world) for name in arguments.cases):
            own = load if case.decisions == 1 else load._replace(calls=load.calls // 10)
            turns = [turn(case, targets, own, number) for number in range(arguments.turns)]
            for name in targets:
                print(f"{arguments.transport}, {report(case, turns, name)}", flush=True)


if __name__ == "__main__":
    main()
