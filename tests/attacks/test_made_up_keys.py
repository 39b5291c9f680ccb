"""Keys that somebody makes up use up neither Postgres nor memory, and do not delay the keys that exist."""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc

from attacks import frames
from attacks.attacked import Report, Target, attacked
from attacks.load import Calls
from attacks.made_up_keys import flood
from attacks.sizes import ATTACK_SECONDS, FULL
from attacks.victim import CHECK
from fixtures.many_keys import insert_keys
from fixtures.served import Server, launch
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.lookup_budget import BURST

LOOKUP = re.compile(r"\bFROM (keys|key_secrets|overrides)\b.* (IN|ANY)\b", re.DOTALL)
"""What reads the rows of certain keys."""

STATEMENTS_PER_SECOND = 10
KNOWN_KEYS = 10_000 if FULL else 2_000
SERVED_SECONDS = 10 if FULL else 30


READ_TOGETHER = 2
"""Made-up keys at least that one statement reads, on average; it can read 500."""


def assert_few_lookups(report: Report) -> int:
    """Few statements read the rows of certain keys: 10 a second, and in a short attack those saved up before it.

    Returns how many do.
    """
    statements = report.stores.statements
    found = sum(calls for query, calls in statements.items() if LOOKUP.search(query))
    assert found <= STATEMENTS_PER_SECOND * report.seconds + (0 if FULL else 2 * BURST), statements
    return found


def test_made_up_keys(target: Target) -> None:
    """Postgres runs at most 10 statements a second because of them, Redis nothing, and none of them is an error."""
    with attacked(target) as report:
        found = report.attack(flood)
    assert found.total() > 200 * ATTACK_SECONDS
    assert set(found) <= {"key_unknown", "degraded_denied", "late", "refused"}, found
    assert found["key_unknown"] > READ_TOGETHER * assert_few_lookups(report), found
    assert report.stores.commands["evalsha"] <= 1.2 * 200 * report.seconds


def test_more_made_up_keys_than_are_read(target: Target) -> None:
    """From 24 connections come more keys than 10 statements a second read: the rest is deferred or refused."""
    with attacked(target, "made-up keys, 24 connections", check=False) as report:
        found = report.attack(flood, 8)
    assert found.total() > 200 * ATTACK_SECONDS
    assert not found["error"] + found["impatient"], found
    assert found["key_unknown"] > 0, found
    assert found["degraded_denied"] > 0, found
    assert_few_lookups(report)
    assert report.memory_growth_mb <= report.memory_mb, report.row()


def test_a_new_key_beside_made_up_ones(target: Target) -> None:
    """A key that is created during the attack is served within 1 s: CI allows 10."""
    waits: list[float] = []

    def create() -> None:
        for _ in range(5):
            _, secret = target.server.key("wide")
            began = time.monotonic()
            while not is_served(target.server, secret):
                assert time.monotonic() - began < 30, "the key is not served"
                time.sleep(0.02)
            waits.append(time.monotonic() - began)

    failures: list[BaseException] = []
    thread = threading.Thread(target=lambda: _record(create, failures))
    with attacked(target, check=False) as report:
        thread.start()
        report.attack(flood, seconds=max(ATTACK_SECONDS, 1.5))
        thread.join()
    assert not failures, failures
    assert max(waits) <= (1 if FULL else 10), waits


def test_another_environment_in_the_key(target: Target) -> None:
    """A key with another <env>, and the checksum that fits, is unknown, however often its owner tries."""
    server = target.server
    _, secret = server.key("wide")
    _, environment, key_id, rest = secret.split("_")
    assert check(server, secret).allowed
    for other in ("test", "prod", "live1", environment[:-1]):
        answer = check(server, str(ApiKey(other, key_id, rest[:-6])))
        assert answer == CheckLimitResponse(reason=CheckLimitResponse.KEY_UNKNOWN, source=CheckLimitResponse.POLICY)
    assert check(server, secret).allowed


def test_known_keys_after_a_restart(target: Target, tmp_path: Path) -> None:
    """After a restart the first calls of 10,000 keys are decided within 10 s, beside an attack with made-up ones."""
    known = insert_keys(target.server.settings, KNOWN_KEYS)
    target.server.close_channel()
    target.server.stop()
    target.server = server = launch(target.server.settings, target.server.tokens, tmp_path / "log")
    server.wait_for_output("ratelimit-service serves on")
    target.watch.attach(server.process.pid)
    seconds = 0.0

    def serve_all() -> None:
        nonlocal seconds
        began = time.monotonic()
        left = asyncio.run(serve_known(server.address, known, began + SERVED_SECONDS))
        seconds = time.monotonic() - began
        assert not left, f"{left} of {KNOWN_KEYS} keys were not served in {seconds:.1f} s"

    failures: list[BaseException] = []
    thread = threading.Thread(target=lambda: _record(serve_all, failures))
    with attacked(target, check=False) as report:
        thread.start()
        report.attack(flood)
        thread.join()
    assert not failures, failures
    assert seconds <= SERVED_SECONDS
    report.attackers["known served in ms"] = round(seconds * 1e3)


def is_served(server: Server, api_key: str) -> bool:
    """Whether a call with the key is allowed. One that is refused under overload, on a busy machine, is made again."""
    try:
        return check(server, api_key).allowed
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


def check(server: Server, api_key: str) -> CheckLimitResponse:
    """One CheckLimit."""
    method = server.channel.unary_unary(CHECK, CheckLimitRequest.SerializeToString, CheckLimitResponse.FromString)
    answer: CheckLimitResponse = method(CheckLimitRequest(api_key=api_key), timeout=5)
    return answer


async def serve_known(address: str, keys: list[str], until: float) -> int:
    """Check each of KEYS until it is allowed, a tenth of a second each, as a gateway with 4 connections and 64 calls.

    Returns how many are left.
    """
    waiting = list(keys)
    counts: Counter[str] = Counter()

    def ended(key: str, trailers: Mapping[bytes, bytes], body: bytes) -> str:
        status = trailers.get(b"grpc-status", b"reset")
        if status == b"0" and (answer := CheckLimitResponse.FromString(body[5:])).allowed:
            return "allowed"
        waiting.insert(0, key)
        return CheckLimitResponse.Reason.Name(answer.reason) if status == b"0" else f"status {status.decode()}"

    class Keys(Iterator[tuple[str, bytes]]):
        """Those that are waiting."""

        def __next__(self) -> tuple[str, bytes]:
            if not waiting:
                raise StopIteration
            key = waiting.pop()
            return key, frames.message(CheckLimitRequest(api_key=key).SerializeToString())

    host, _, port = address.rpartition(":")
    connections = [
        await asyncio.get_running_loop().create_connection(
            lambda: Calls(Keys(), counts, until, timeout="100m", outcome=ended), host, int(port)
        )
        for _ in range(4)
    ]
    while counts["allowed"] < len(keys) and time.monotonic() < until:
        for _, calls in connections:
            calls.call()
        await asyncio.sleep(0.01)
    for transport, _ in connections:
        transport.close()
    print(f"first calls of known keys: {dict(counts)}")  # noqa: T201  for the figures
    return len(keys) - counts["allowed"]


def _record(work: object, failures: list[BaseException]) -> None:
    try:
        work()  # type: ignore[operator]
    except BaseException as error:  # noqa: BLE001  the test's own thread raises it
        failures.append(error)
