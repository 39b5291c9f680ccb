"""`python -m bench.tracing`: servers with and without tracing, and with the access log, on the same stores, in turns.

Only one of the servers has load at a time. The collector takes what they send and reads none of it.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from bench.cases import Case, batched, described, unary
from bench.load import Load, whole_seconds
from bench.measure import Measure, measure
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


def turn(case: Case, targets: Mapping[str, Target], redis_pid: int, load: Load, number: int) -> dict[str, Measure]:
    """One measure of each server, each time another one first."""
    names = list(targets)
    order = names[number % len(names) :] + names[: number % len(names)]
    return {name: measure(case, targets[name], redis_pid, load) for name in order}


def report(case: Case, turns: list[dict[str, Measure]], name: str) -> str:
    """What a server did beside the one without tracing."""
    rate = statistics.median(one[name].decisions_per_second / one[OFF].decisions_per_second for one in turns)
    cpu = statistics.median(one[name].server_cpu / one[OFF].server_cpu for one in turns)
    p99 = statistics.median(one[name].p99_ms for one in turns)
    failed = sum(one[name].failed for one in turns)
    done = statistics.median(one[name].decisions_per_second for one in turns)
    return (
        f"{case.name}, {name}: {rate:.3f} of the decisions a second ({done:,.0f}/s), {cpu:.3f} of the CPU, "
        f"p99 {p99:.1f} ms; {failed} failed"
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracing", description=__doc__)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=whole_seconds, default=3, help="whole seconds per measure")
    parser.add_argument("--transport", default="envoy", choices=["envoy", "grpcio"])
    parser.add_argument("--only", nargs="*", default=[], help="names of servers besides the one without tracing")
    parser.add_argument("--cases", nargs="*", default=[*CASES], choices=[*CASES])
    arguments = parser.parse_args()
    load, port = Load(seconds=arguments.seconds), free_port()
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
            turns = [turn(case, targets, world.valkey_pid, load, number) for number in range(arguments.turns)]
            for name in targets:
                print(f"{arguments.transport}, {report(case, turns, name)}", flush=True)


if __name__ == "__main__":
    main()
