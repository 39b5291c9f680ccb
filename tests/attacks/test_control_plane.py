"""The control plane behind the transport envoy, which strangers reach through the public port too."""

import signal
import struct
import time
from collections import Counter

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attacks import frames
from attacks.attacked import Target, attacked
from attacks.conftest import StartTarget
from attacks.connection import Connection, data, open_call
from attacks.sizes import FULL
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

ADMIN = frames.header_block("/ratelimit.v1.KeyAdminService/ManageKey")
TOKEN = frames.header_block("/ratelimit.v1.KeyAdminService/ManageKey", authorization="Bearer rlt_" + "x" * 45)
CHECK = frames.header_block("/grpc.health.v1.Health/Check")
WATCH = frames.header_block("/grpc.health.v1.Health/Watch")
REFLECTION = frames.header_block("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
UNKNOWN = frames.header_block("/no.such.Service/Method")
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


def test_a_health_watch_lives_on(target: Target) -> None:
    """A watch is open after a silence, and ends only with its server or its caller."""
    with grpc.insecure_channel(target.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == 1
        time.sleep(12)
        assert watch.is_active()
        watch.cancel()


def test_a_watcher_who_does_not_read(start_target: StartTarget) -> None:
    """It does not keep others from learning that the server drains."""
    target = start_target("grpcio")
    closed_window = frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    with (
        Connection(target.address, closed_window) as unread,
        grpc.insecure_channel(target.address, (("grpc.use_local_subchannel_pool", 1),)) as channel,
    ):
        unread.send(open_call(1, WATCH) + data(1, frames.message(b""), end=True))
        unread.drain(0.5)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        target.server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
