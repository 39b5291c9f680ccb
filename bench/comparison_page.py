"""The page of the comparison: the machine, each row with its bar and goal, and what they are ratios of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bench.bars import Bar
from bench.host import Host
from bench.peer import VERSION

_ENVOY: Final = "Envoy x"


class Line(NamedTuple):
    """The medians of a case; CPU in microseconds a decision. `failed` is a sum."""

    case: str
    rate: float
    p50_ms: float
    p99_ms: float
    server_cpu: float
    redis_cpu: float
    failed: int


class Comparison(NamedTuple):
    """What was found. Bars are with the lowest and the highest of their ratios; `commands` by case and command.

    `lower_peak` are decisions a second, of which the rates of the open loop are shares.
    """

    host: Host
    turns: int
    seconds: float
    bars: Sequence[tuple[Bar, float, float]]
    lines: Sequence[Line]
    commands: Mapping[str, Mapping[str, float]]
    lower_peak: float


def page(found: Comparison, scale: Mapping[str, float]) -> str:
    """All of it in Markdown. SCALE: what `bench.scale` has found, if anything."""
    return "\n".join([*_introduction(found), *_rows(found), *_figures(found), *_commands(found), *_scale(scale), ""])


def _introduction(found: Comparison) -> Iterator[str]:
    host = found.host
    memory = ", ".join(f"{took:.0f} ns among {mib} MiB" for mib, took in host.memory_ns.items()) or "not measured"
    yield "# Performance\n"
    yield (
        f"Written by `python -m bench --only peer`: [how it measures](../bench/README.md#beside-a-peer). Medians of "
        f"{found.turns} turns of {found.seconds:g} seconds; ER is envoyproxy/ratelimit `{VERSION}` "
        "on the same Valkey. Where a call's CPU time goes, and what was tried: [Profiles](profiles.md).\n"
    )
    yield (
        f"**Machine**: {host.processor}, {host.cores} cores, {host.caches}; an access to memory takes {memory}: "
        f"{'slow memory' if host.slow_memory else 'ample caches'}. {host.system}, Python {host.python}. The load "
        f"average was {host.load_before:.1f} before.\n"
    )


def _rows(found: Comparison) -> Iterator[str]:
    yield "| what | ratio | lowest to highest | bar | goal | |"
    yield "|---|---|---|---|---|---|"
    for bar, lowest, highest in found.bars:
        goal = "" if bar.goal is None else f"{bar.goal:g}"
        yield (
            f"| {bar.name} | {bar.value:.2f} | {lowest:.2f} to {highest:.2f} | {bar.relation} {bar.bound:g} | {goal} | "
            f"{bar.verdict} |"
        )


def _figures(found: Comparison) -> Iterator[str]:
    yield "\n## Figures\n"
    yield (
        f"CPU in microseconds a decision; a request of several descriptors is one. `10 %` and `60 %` are of "
        f"{found.lower_peak:,.0f}/s, the lower of both peaks with 10,000 keys.\n"
    )
    yield "| case | decisions/s | p50 ms | p99 ms | CPU of the limiter | CPU of Valkey | failed |"
    yield "|---|---|---|---|---|---|---|"
    for line in found.lines:
        own = "" if line.case.startswith(_ENVOY) else f"{line.server_cpu:.1f}"
        store = "" if line.case.startswith(_ENVOY) else f"{line.redis_cpu:.1f}"
        latency = f"{line.p50_ms:.2f} | {line.p99_ms:.2f}"
        yield f"| {line.case} | {line.rate:,.0f} | {latency} | {own} | {store} | {line.failed} |"


def _commands(found: Comparison) -> Iterator[str]:
    if found.commands:
        yield "\nCommands of Valkey for a decision at a steady rate, those that a script calls among them:\n"
    for case, commands in found.commands.items():
        listed = ", ".join(f"{name} {calls:.2f}" for name, calls in sorted(commands.items()))
        yield f"- {case}: {listed}"


def _scale(found: Mapping[str, float]) -> Iterator[str]:
    if found:
        yield "\n## At scale\n"
        yield "By `python -m bench.scale`, in a run of its own. A cached policy is to take 1,024 bytes at most.\n"
        yield "| what | figure |"
        yield "|---|---|"
        for name, figure in found.items():
            yield f"| {name} | {f'{figure:,.1f}'.removesuffix('.0')} |"
