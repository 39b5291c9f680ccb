"""`make bench`: every case on each transport, a table on screen, and JSON in bench/results."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import comparison, scale, usage, usage_flush
from bench.bars import Bar, counting, memory, ratios, sharing, without_counting
from bench.cases import Case, batched, compared, empty, others, streamed, unary
from bench.comparison_page import page
from bench.front import FRONTS, QuotaService, front
from bench.host import this_host
from bench.load import Load, find_h2load, whole_seconds
from bench.measure import Measure, measure, median
from bench.report import save, save_page, show
from bench.target import Target, serving
from bench.target import empty as empty_server
from bench.world import World, open_world

TRANSPORTS = ("envoy", "grpcio")
COUNTING = "counting"
PEER = "peer"
SMALL_USAGE, FULL_USAGE = "1000x7", "10000x30"


class Bench:
    """One run: the same load and the same number of repeats for each case."""

    def __init__(self, load: Load, repeats: int, redis_pid: int) -> None:
        self.load = load
        self._repeats = repeats
        self._redis_pid = redis_pid
        self.measures: list[Measure] = []

    def run(self, cases: Sequence[Case], target: Target, load: Load | None = None) -> None:
        """Measure each case `repeats` times, and keep its median.

        The cases take turns, since a shared machine is faster at some times than at others.
        """
        self.take_turns([(case, target) for case in cases], load)

    def take_turns(self, cases: Sequence[tuple[Case, Target]], load: Load | None = None) -> None:
        """The same with a target for each case."""
        for case, target in cases:
            case.load_keys(target.port)
        rounds = [
            [measure(case, target, self._redis_pid, load or self.load) for case, target in cases]
            for _ in range(self._repeats)
        ]
        for repeats in zip(*rounds, strict=True):
            self.measures.append(median(repeats))
            found = self.measures[-1]
            rate = found.decisions_per_second
            print(f"{found.transport} x{found.workers} {found.case}: {rate:,.0f}/s", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=whole_seconds, help="whole seconds per measure; default 5, beside a peer 2")
    parser.add_argument(
        "--repeats", type=int, help="measures of each case; their median is reported; default 3, beside a peer 7"
    )
    parser.add_argument("--keys", type=int, default=100_000, help="keys of the largest case")
    parser.add_argument(
        "--calls", type=int, default=1_000_000, help="calls over which memory growth is measured; 0: skip"
    )
    parser.add_argument(
        "--only",
        default="",
        help=f"only cases with this in their name, and no bars; `{PEER}`: all beside a peer; `{COUNTING}`: what it "
        "costs to count usage; `flush`: how fast usage is moved to Postgres; `usage`: how long questions about it take",
    )
    parser.add_argument(
        "--peer",
        type=int,
        help="port of another rate limit service to compare with, on this machine, with the rules of bench/peer.yaml; "
        "default: envoyproxy/ratelimit, built with Go",
    )
    parser.add_argument("--before", type=Path, help="work tree of an earlier version with its .venv, to compare with")
    parser.add_argument("--page", type=Path, help="where the page beside a peer is written; default: in bench/results")
    arguments = parser.parse_args()
    find_h2load()  # before a minute has gone into starting what it is to load
    if arguments.only == "flush":
        usage_flush.run()
    elif arguments.only == "usage":
        usage.run(SMALL_USAGE, arguments.seconds or 5, arguments.repeats or 3)
    elif arguments.only == PEER:
        _beside_peer(arguments)
    else:
        _transports(arguments)
        if not arguments.only:
            _beside_peer(arguments)
            usage_flush.run()
            usage.run(FULL_USAGE, arguments.seconds or 5, arguments.repeats or 3)


def _beside_peer(arguments: argparse.Namespace) -> None:
    load = Load(seconds=arguments.seconds or 2)
    found = comparison.run(this_host(), load, arguments.repeats or 7, arguments.peer, arguments.before)
    text = page(found, scale.kept())
    print(text)
    print(save_page(text, arguments.page))


def _transports(arguments: argparse.Namespace) -> None:
    host = this_host()
    with tempfile.TemporaryDirectory() as folder, open_world(arguments.keys) as world:
        bench = Bench(Load(seconds=arguments.seconds or 5), arguments.repeats or 3, world.valkey_pid)
        if arguments.only == COUNTING:
            bars = _counting(bench, world)
        elif arguments.only:
            bars = _some(bench, world, Path(folder), arguments.only)
        else:
            bars = _all(bench, world, Path(folder), arguments.calls)
    show(host, bench.measures, bars)
    print(save(host, bench.measures, bars))


def _counting(bench: Bench, world: World) -> list[Bar]:
    """What it costs to count usage: a server that counts beside one that does not, in turns."""
    cases = [unary(world), batched(world)]
    for transport in TRANSPORTS:
        with (
            serving(world.settings, transport, 1) as target,
            serving(world.settings, transport, 1, counted=False) as uncounted,
        ):
            bench.take_turns(
                [
                    pair
                    for case in cases
                    for pair in ((case, target), (case._replace(name=without_counting(case.name)), uncounted))
                ]
            )
    return list(counting(bench.measures))


def _some(bench: Bench, world: World, folder: Path, name: str) -> list[Bar]:
    for transport in TRANSPORTS:
        with serving(world.settings, transport, 1) as target:
            cases = [*compared(world), *others(world, folder)]
            bench.run([case for case in cases if name in case.name], target)
            if transport == "envoy":
                for through in _through_fronts(world, folder, target):
                    bench.run([case for case in through if name in case.name], target)
    return []


def _through_fronts(world: World, folder: Path, target: Target) -> Iterator[list[Case]]:
    """The cases of each front, with the service and the empty handler as limiters."""
    with empty_server(target.transport) as empty_target:
        limiters = {"RLS": target.port, "empty handler": empty_target.port}
        for threads in FRONTS:
            quotas = QuotaService(target.port, world.gateway_token)
            with front(limiters, quotas, world.keys[0], threads, folder) as cases:
                yield cases


def _all(bench: Bench, world: World, folder: Path, calls: int) -> list[Bar]:
    bars: list[Bar] = []
    bars += _counting(bench, world)
    for transport in TRANSPORTS:
        with empty_server(transport) as target:
            bench.run([empty()], target)
        with serving(world.settings, transport, 1) as target:
            bench.run(compared(world), target)
            bench.run(others(world, folder), target)
            if transport == "envoy":
                for through in _through_fronts(world, folder, target):
                    bench.run(through, target)
            if calls:
                bars += memory(unary(world), target, calls)
        with serving(world.settings, transport, 2) as target:
            load = bench.load._replace(connections=32, streams=8)
            bench.run([unary(world), batched(world), streamed(world)], target, load)
            bars += sharing(unary(world), target, load)
    return [*ratios(bench.measures), *bars]


if __name__ == "__main__":
    main()
