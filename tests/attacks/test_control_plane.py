"""The control plane behind the transport envoy, which strangers reach through the public port too."""

import threading
import time
from collections import Counter

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.connection import MAX_STREAMS, Connection, data, open_call
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.transport.envoy.config import MAX_HEALTH_CHECKS
from ratelimit_service.transport.grpcio.open_streams import MAX_WATCHES

ADMIN = frames.header_block("/ratelimit.v1.KeyAdminService/ManageKey")
TOKEN = frames.header_block("/ratelimit.v1.KeyAdminService/ManageKey", authorization="Bearer rlt_" + "x" * 45)
CHECK = frames.header_block("/grpc.health.v1.Health/Check")
WATCH = frames.header_block("/grpc.health.v1.Health/Watch")
REFLECTION = frames.header_block("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
UNKNOWN = frames.header_block("/no.such.Service/Method")
HEALTH_CONNECTIONS = MAX_HEALTH_CHECKS // MAX_STREAMS // 2
"""Of each of three attackers: half as many calls again as are proxied at a time."""
WATCHING = MAX_WATCHES // MAX_STREAMS + 10
"""Connections with as many watches as are allowed, two of which ask for reflection instead: more than have places."""
UNFINISHED = b"\0\0\1\0\0" + b"x" * 10_000


def hold_control_plane(address: str, until: float) -> Counter[str]:
    """Begin calls of everything that is proxied, and finish none."""
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        with Connection(address) as connection:
            connection.drain(0.3)
            most = min(600, connection.theirs.get(frames.MAX_CONCURRENT_STREAMS, 100))
            for number in range(most):
                block = (ADMIN, TOKEN, CHECK, WATCH, REFLECTION, UNKNOWN)[number % 6]
                stream = 2 * number + 1
                left = max(min(1.0, until - time.monotonic()), 0.01)
                if not connection.send(open_call(stream, block) + data(stream, UNFINISHED), left):
                    break
                counts["begun"] += 1
                connection.drain()
            connection.wait_closed(min(5.0, max(until - time.monotonic(), 0.0)))
            counts["ended"] += len(connection.ended)
    return counts


def test_calls_that_hold_the_control_plane(target: Target) -> None:
    """While strangers hold all they can, the victim is served, and so are an admin and a health check."""
    server = target.server
    with attacked(target, "control plane held", check=FULL) as report:
        report.attack(hold_control_plane)
        admin = server.manage().ManageKey(
            admin_pb2.ManageKeyRequest(list={"page_size": 1}), metadata=server.as_admin, timeout=10
        )
        assert admin.HasField("list")
        with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    assert report.attackers["ended"] > 0


def hold_health(address: str, until: float) -> Counter[str]:
    """Begin health checks on several connections, as many as are allowed, and send no message; again when they end."""
    counts: Counter[str] = Counter()
    held: list[Connection] = []
    try:
        while time.monotonic() < until:
            while len(held) < HEALTH_CONNECTIONS:
                held.append(Connection(address))
                held[-1].drain(0.01)
            for connection in held:
                connection.drain()
                begun = counts[f"of {id(connection)}"]
                while begun - len(connection.ended) < MAX_STREAMS and connection.send(open_call(2 * begun + 1, CHECK)):
                    begun += 1
                counts[f"of {id(connection)}"] = begun
            held = [connection for connection in held if not connection.closed]
            time.sleep(0.02)
    finally:
        for connection in held:
            connection.close()
    return Counter({"begun": counts.total()})


def test_health_checks_without_a_message(target: Target) -> None:
    """However many are held, probes are answered and admins served: a gateway that health-checks would fail open."""
    server = target.server
    answered = 0
    with attacked(target, "health checks held", check=FULL) as report:
        seconds = max(ATTACK_SECONDS, 2.5)
        attack = threading.Thread(target=lambda: report.attack(hold_health, seconds=seconds))
        attack.start()
        with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                while attack.is_alive():
                    assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
                    request = admin_pb2.ManageKeyRequest(list={"page_size": 1})
                    assert server.manage().ManageKey(request, metadata=server.as_admin, timeout=5).HasField("list")
                    answered += 1
                    time.sleep(0.1)
            finally:
                attack.join()
    assert answered >= (10 if FULL else 5)
    assert report.attackers["begun"] > MAX_HEALTH_CHECKS


def test_nobody_takes_all_watches(target: Target) -> None:
    """However many streams of health and reflection a few dozen connections open, others are still served."""
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    whole = frames.message(question.SerializeToString())
    streams = range(1, 2 * MAX_STREAMS, 2)
    held = [Connection(target.address) for _ in range(WATCHING)]
    try:
        for connection in held[:2]:
            connection.send(b"".join(open_call(n, REFLECTION) + data(n, whole) for n in streams))
        for connection in held[2:]:
            connection.send(b"".join(open_call(n, WATCH) + data(n, frames.message(b""), end=True) for n in streams))
        time.sleep(0.5)
        for connection in held:
            connection.drain()
        with grpc.insecure_channel(target.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
            assert next(watch).status == 1
            answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([question]), timeout=10
            )
            assert len(next(answers).list_services_response.service) >= 4
            watch.cancel()
        until = time.monotonic() + 10
        for connection in held:
            while len(connection.ended) < MAX_STREAMS - 4:
                assert time.monotonic() < until, len(connection.ended)
                connection.drain(0.02)
    finally:
        for connection in held:
            connection.close()
