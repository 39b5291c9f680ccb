"""The service beside a peer, the transport alone and the version before, in the same minutes on the same stores.

    python -m bench --only peer                              # or with --before CHECKOUT, --peer PORT, --page PATH

Cases take turns, those that are compared next to each other, and each other turn in reverse order. Requests of Envoy's
protocol are decided by rules of a domain on both sides, by fixed windows of a day, since the peer has no other kind;
where it says `by API key`, the service decides by the plan of that key, a token bucket, and the peer as before.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import grpc
import redis
from google.protobuf.message import Message

from bench.cases import Case, empty, on_one_key, request, spread_requests, unary, users
from bench.comparison_page import Comparison, Line
from bench.front import FRONTS, QuotaService, front
from bench.host import Host
from bench.load import Load
from bench.measure import Measure, measure
from bench.peer import envoy_ratelimit, program, running_on
from bench.rows import Row, Turn, all_cpu, bars, own_cpu, p50, p99, rate
from bench.target import Target, serving
from bench.target import empty as empty_server
from bench.world import DENIED, USER, World, open_world
from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service.transport.envoy.paths import CHECK, SHOULD_RATE_LIMIT

KEYS: Final = 10_000
DESCRIPTORS: Final = (8, 32, 128)
STEADY: Final = 2_000
"""Calls a second at which CPU and commands are counted."""

_WARM_UP: Final = 0.5
_CONNECTIONS: Final = 8
_LONE: Final = Load(connections=1, streams=1)
_SECONDS_OF_COMMANDS: Final = 2.0
_SEED: Final = 1


class Step(NamedTuple):
    """One case on one target."""

    case: Case
    target: Target
    load: Load


Steps = dict[str, Step]


class Sides(NamedTuple):
    """Everybody who takes turns; None if there is none. `nothing` responds with as many bytes as denials have."""

    service: Target
    nothing: Target
    front_nothing: Target
    peer: Target | None
    cached: Target | None
    before: Target | None

    @property
    def peer_store_is_known(self) -> bool:
        """Whether the peer uses the service's Valkey: one that somebody else has started has its own."""
        return self.cached is not None


def rows(*, slow_memory: bool) -> Iterator[Row]:
    """All of them. On a machine with SLOW_MEMORY some bars are lower."""
    ample = (1.0, 1.3) if slow_memory else (1.5, 2.0)
    yield Row("ShouldRateLimit, 10,000 keys / ER", "10,000 keys", "ER: 10,000 keys", rate, ">=", *ample)
    yield Row("the same, by API key", "10,000 API keys", "ER: 10,000 keys", rate, ">=", *ample)
    yield Row("ShouldRateLimit, 1 key / ER", "1 key", "ER: 1 key", rate, ">=", *ample)
    yield Row("denied / empty handler", "denied", "empty handler", rate, ">=", 0.90, 0.97)
    yield Row(
        "CheckLimit, denied / empty handler", "CheckLimit denied", "empty handler: CheckLimit", rate, ">=", 0.90, 0.97
    )
    yield Row("denied / allowed of the version before", "denied", "before: 1 key", rate, ">=", 1.15, 1.25)
    yield Row("CheckLimit, the same", "CheckLimit denied", "before: CheckLimit", rate, ">=", 1.15, 1.25)
    yield Row("denied / ER", "denied", "ER: denied", rate, ">=", 1.0)
    yield Row("denied / ER with its local cache", "denied", "ER with cache: denied", rate, ">=", 1.0)
    for count in DESCRIPTORS[:2]:
        yield Row(f"{count} descriptors / ER", f"{count} descriptors", f"ER: {count} descriptors", rate, ">=", 1.0, 1.5)
    yield Row("p50 of a lone call / ER", "lone call", "ER: lone call", p50, "<=", 1.3, 0.9)
    yield Row("p99 of a lone call / ER", "lone call", "ER: lone call", p99, "<=", 1.3, 0.9)
    for share in ("10 %", "60 %"):
        for name, figure in (("p50", p50), ("p99", p99)):
            yield Row(f"{name} at {share} load / ER", f"{share} load", f"ER: {share} load", figure, "<=", 1.1, 0.9)
    yield Row(f"CPU of service and store at {STEADY:,}/s / ER", "steady", "ER: steady", all_cpu, "<=", 1.1, 0.8)
    yield Row(
        "own CPU of a CheckLimit / the version before", "CheckLimit", "before: CheckLimit", own_cpu, "<=", 0.75, 0.5
    )
    yield Row("own CPU of a ShouldRateLimit / the version before", "1 key", "before: 1 key", own_cpu, "<=", 0.75, 0.5)
    for threads in FRONTS:
        through = f"Envoy x{threads}"
        yield Row(
            f"through {through} / with the empty handler behind it",
            through,
            f"{through}: empty handler",
            rate,
            ">=",
            0.95,
            0.98,
        )
        yield Row(f"through {through} / ER", through, f"{through}: ER", rate, ">=", 1.0)


def run(host: Host, load: Load, turns: int, peer_port: int | None, before: Path | None) -> Comparison:
    """Measure all rows that can be measured, in so many turns."""
    load = load._replace(warm_up=_WARM_UP)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        world = stack.enter_context(open_world(KEYS))
        sides = _open(stack, world, folder, peer_port, before)
        steps = closed_loop(sides, world, folder, load)
        for threads in FRONTS:
            limiters = {"": sides.service.port, "empty handler": sides.front_nothing.port}
            if sides.peer is not None:
                limiters["ER"] = sides.peer.port
            quotas = QuotaService(sides.service.port, world.gateway_token)
            cases = stack.enter_context(front(limiters, quotas, world.keys[0], threads, folder))
            steps |= {
                f"Envoy x{threads}: {name}".removesuffix(": "): Step(case, sides.service, load)
                for name, case in zip(limiters, cases[1:], strict=False)  # without those that call no limiter
            }
        steps["10,000 API keys"].case._replace(keys=world.keys).load_keys(sides.service.port)
        found = list(take_turns(steps, world.valkey_pid, turns))
        peaks = [_median(found, case) for case in ("10,000 keys", "ER: 10,000 keys") if case in steps]
        paced = open_loop(sides, folder, load, min(peaks))
        print(f"the lower peak is {min(peaks):,.0f}/s", flush=True)
        more = take_turns(paced, world.valkey_pid, turns)
        found = [{**of_steps, **of_paced} for of_steps, of_paced in zip(found, more, strict=True)]
        commands: dict[str, dict[str, float]] = {
            case: _commands(paced[case], world.valkey_port) for case in paced if "steady" in case
        }
    return Comparison(
        host=host,
        turns=turns,
        seconds=load.seconds,
        bars=list(bars(list(rows(slow_memory=host.slow_memory)), found)),
        lines=[_line(case, [turn[case] for turn in found]) for case in found[0]],
        commands=commands,
        lower_peak=min(peaks),
    )


def take_turns(steps: Steps, redis_pid: int, turns: int) -> Iterator[Turn]:
    """Measure each case once a turn."""
    for number in range(turns):
        order = list(reversed(steps)) if number % 2 else list(steps)
        print(f"turn {number + 1} of {turns}, {len(order)} cases", flush=True)
        yield {case: measure(steps[case].case, steps[case].target, redis_pid, steps[case].load) for case in order}


def _open(stack: ExitStack, world: World, folder: Path, peer_port: int | None, before: Path | None) -> Sides:
    service = stack.enter_context(serving(world.settings, "envoy", 1))
    peer = cached = other = None
    built = program() if peer_port is None else None
    if built is not None:
        peer = stack.enter_context(envoy_ratelimit(built, world.valkey_port, folder / "peer", cached=False))
        cached = stack.enter_context(envoy_ratelimit(built, world.valkey_port, folder / "cached", cached=True))
    elif peer_port is not None:
        peer = running_on(peer_port)
    else:
        print("there is no peer: envoyproxy/ratelimit could not be built, and --peer names none")
    for target in (service, peer, cached):
        if target is not None:
            check_decides(target)
    if before is not None:
        program_before = before / ".venv" / "bin" / "ratelimit-service"
        other = stack.enter_context(serving(world.settings, "envoy", 1, program=program_before))
        check_decides(other)
    nothing = stack.enter_context(empty_server("envoy", _denial_sizes(service, world)))
    return Sides(service, nothing, stack.enter_context(empty_server("envoy")), peer, cached, other)


def check_decides(target: Target) -> None:
    """Raise SystemExit unless it allows who has plenty, and denies the second request of who has one a day."""
    with grpc.insecure_channel(f"127.0.0.1:{target.port}") as channel:
        should = channel.unary_unary(SHOULD_RATE_LIMIT, _serialize, RateLimitResponse.FromString)
        codes = [should(request(USER, [value]), timeout=5).overall_code for value in ("one", DENIED, DENIED)]
    if (codes[0], codes[2]) != (RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT):
        raise SystemExit(f"the {target.transport} on port {target.port} decides otherwise than by the rules: {codes}")


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _denial_sizes(service: Target, world: World) -> dict[str, int]:
    """The bytes of what is sent to denied requests, by path."""
    asked = {SHOULD_RATE_LIMIT: request(USER, [DENIED]), CHECK: CheckLimitRequest(api_key=world.denied, resource="r")}
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        return {
            path: len([channel.unary_unary(path, _serialize)(message, timeout=5) for _ in range(2)][-1])
            for path, message in asked.items()
        }


def closed_loop(sides: Sides, world: World, folder: Path, load: Load) -> Steps:
    """The cases that keep so many calls in flight; bodies are written to FOLDER."""
    many = [f"user-{number}" for number in range(KEYS)]
    random.Random(_SEED).shuffle(many)  # noqa: S311  the same order in each run
    one, denied = users("1 key", ["one"]), users("denied", [DENIED])
    _, check_denied = on_one_key(world)
    spread = spread_requests("10,000 keys", USER, many, folder / "users")
    steps: Steps = {}

    def add(name: str, case: Case, *targets: tuple[str, Target | None]) -> None:
        for prefix, target in targets:
            if target is not None:
                steps[f"{prefix}{name}"] = Step(case, target, load)

    service, peer = ("", sides.service), ("ER: ", sides.peer)
    before = ("before: ", sides.before)
    add("10,000 API keys", spread_requests("API keys", "api_key", world.keys, folder / "api-keys"), service)
    add("10,000 keys", spread, service, peer)
    add("1 key", one, peer, service, before)
    steps["empty handler"] = Step(denied, sides.nothing, load)
    add("denied", denied, service, peer, ("ER with cache: ", sides.cached))
    steps["empty handler: CheckLimit"] = Step(empty(), sides.nothing, load)
    add("CheckLimit denied", check_denied, service)
    add("CheckLimit", unary(world), before, service)
    for count in DESCRIPTORS:
        described = users(f"{count} descriptors", [f"user-{number}" for number in range(count)])
        add(f"{count} descriptors", described, service, *([peer] if count != DESCRIPTORS[-1] else []))
    steps |= {
        name: Step(one, target, _LONE._replace(seconds=load.seconds, warm_up=load.warm_up))
        for name, target in (("lone call", sides.service), ("ER: lone call", sides.peer))
        if target is not None
    }
    return steps


def open_loop(sides: Sides, folder: Path, load: Load, peak: float) -> Steps:
    """The cases at set rates, two of them shares of PEAK."""
    spread = spread_requests("10,000 keys", USER, [f"user-{number}" for number in range(KEYS)], folder / "paced")
    load = load._replace(connections=_CONNECTIONS)
    return {
        f"{prefix}{name}": Step(spread, target, load._replace(rate=calls))
        for name, calls in (("10 % load", 0.1 * peak), ("60 % load", 0.6 * peak), ("steady", float(STEADY)))
        for prefix, target in (("", sides.service), ("ER: ", sides.peer))
        if target is not None and (target is sides.service or name != "steady" or sides.peer_store_is_known)
    }


def _commands(step: Step, redis_port: int) -> dict[str, float]:
    """The commands of the store for a decision, by name; those that scripts call are among them."""
    client = redis.Redis(port=redis_port)
    client.config_resetstat()
    result = step.case.run(step.target.port, step.load._replace(warm_up=0.0, seconds=_SECONDS_OF_COMMANDS))
    stats = client.info("commandstats")
    client.close()
    counted = {name.removeprefix("cmdstat_"): one["calls"] / max(result.answered, 1) for name, one in stats.items()}
    return {name: calls for name, calls in counted.items() if calls >= 0.005}  # noqa: PLR2004  a hundredth, as shown


def _median(turns: Sequence[Turn], case: str) -> float:
    return median([turn[case].decisions_per_second for turn in turns])


def _line(case: str, measures: Sequence[Measure]) -> Line:
    """The medians of each figure of a case, each by itself."""
    return Line(
        case,
        rate=median(map(rate, measures)),
        p50_ms=median(map(p50, measures)),
        p99_ms=median(map(p99, measures)),
        server_cpu=median(map(own_cpu, measures)),
        redis_cpu=median(one.redis_cpu for one in measures),
        failed=sum(one.failed for one in measures),
    )
