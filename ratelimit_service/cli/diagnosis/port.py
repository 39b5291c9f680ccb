"""The ports."""

from collections.abc import Iterator

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ratelimit_service.cli.address import dialable
from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.processes.port import PortLock
from ratelimit_service.settings import Settings
from ratelimit_service.startup import StartupFault

_SECONDS = 2.0


def examine_ports(settings: Settings) -> Iterator[Finding]:
    """Whether the addresses can be listened on. A server of ours on the gRPC port is a good sign, not a fault."""
    try:
        PortLock(settings.listen).close()
    except StartupFault as fault:
        health = _health(settings.listen)
        if health:
            yield Finding.ok("port", f"a ratelimit-service runs on {settings.listen} and says that it is {health}")
        else:
            yield Finding.fault("port", str(fault))
        return
    yield Finding.ok("port", f"{settings.listen} is free")
    if settings.metrics_listen:
        yield _examine_metrics(settings.metrics_listen)


def _examine_metrics(listen: str) -> Finding:
    try:
        PortLock(listen).close()
    except StartupFault as fault:
        return Finding.fault("metrics port", str(fault).replace("RATELIMIT_LISTEN", "RATELIMIT_METRICS_LISTEN"))
    return Finding.ok("metrics port", f"{listen} is free")


def _health(listen: str) -> str:
    """What the server on the port says of itself, empty if it does not speak for a ratelimit-service."""
    request = HealthCheckRequest(service="ratelimit.v1.RateLimitService")
    with grpc.insecure_channel(dialable(listen)) as channel:
        try:
            answer = HealthStub(channel).Check(request, timeout=_SECONDS)
        except grpc.RpcError:
            return ""
    return str(HealthCheckResponse.ServingStatus.Name(answer.status))
