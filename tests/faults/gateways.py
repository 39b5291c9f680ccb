"""Gateways in a closed loop over several servers, and what they got: by gRPC, and by an Envoy in front of a site."""

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import grpc
import yaml

from api.envoy.front import FrontEnvoy, Json, from_headers, front_config, rate_limit_filter, route
from fixtures.pages import blocks
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub

GUIDE: Final = "docs/guides/upgrade.md"

_PAUSE: Final = 0.005
_DENIED: Final = 429


@dataclass
class Outcomes:
    """What became of calls, by the names of their keys."""

    phase: str = "before"
    """What is going on: errors are counted by it."""
    allowed: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    sources: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    """Calls of impatient gateways without an answer in time."""

    @property
    def calls(self) -> int:
        """Those that were answered."""
        return self.allowed.total() + self.denied.total()


class GrpcGateways:
    """Clients, each with one channel over all servers. They call while the block lasts."""

    def __init__(
        self,
        addresses: Sequence[str],
        keys: Mapping[str, str],
        outcomes: Outcomes,
        *,
        clients: int,
        deadline: float,
        authority: bytes | None = None,
    ) -> None:
        """KEYS are API keys by the names by which they are counted. DEADLINE is that of a call, in seconds.

        With the PEM of an AUTHORITY they use TLS, and check the health of servers.
        """
        config: Json = {"loadBalancingConfig": [{"round_robin": {}}]}
        if authority is not None:
            config["healthCheckConfig"] = {"serviceName": ""}
        options = [
            ("grpc.service_config", json.dumps(config)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        target = f"ipv4:{','.join(addresses)}"
        if authority is None:
            self._channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(clients)]
        else:
            credentials = grpc.ssl_channel_credentials(authority)
            options.append(("grpc.ssl_target_name_override", "localhost"))
            self._channels = [grpc.aio.secure_channel(target, credentials, options) for _ in range(clients)]
        self._keys = keys
        self._outcomes = outcomes
        self._deadline = deadline
        self._ended = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._call(channel)) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)
        for channel in self._channels:
            await channel.close()

    async def _call(self, channel: grpc.aio.Channel) -> None:
        stub = RateLimitServiceStub(channel)
        outcomes = self._outcomes
        while not self._ended:
            for name, api_key in self._keys.items():
                try:
                    response = await stub.CheckLimit(CheckLimitRequest(api_key=api_key), timeout=self._deadline)
                except grpc.aio.AioRpcError as error:
                    if self._deadline < 1 and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        outcomes.late[outcomes.phase] += 1
                    else:
                        outcomes.errors[f"{outcomes.phase}: {error.code().name}: {error.details()}"] += 1
                    continue
                (outcomes.allowed if response.allowed else outcomes.denied)[name] += 1
                outcomes.sources[response.source] += 1
            await asyncio.sleep(_PAUSE)


def front_of(addresses: Sequence[str], upstream_port: int) -> Json:
    """An Envoy before a site, which asks these servers as docs/guides/upgrade.md has it configured."""
    (block,) = blocks(GUIDE, "yaml")
    guide = yaml.safe_load(block)
    limiter = rate_limit_filter(timeout="1s", failure_mode_deny=True)
    by_key = route(from_headers(api_key="x-api-key"))
    config = front_config(addresses[0], upstream_port, limiter, routes=[by_key])
    cluster = config["static_resources"]["clusters"][0]
    cluster |= guide
    split = [address.split(":") for address in addresses]
    sockets = [{"socket_address": {"address": host, "port_value": int(port)}} for host, port in split]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": one}} for one in sockets]}]
    return config


class SiteVisitors:
    """Threads that visit a site through an Envoy, with an API key. They do while the block lasts."""

    def __init__(self, front: FrontEnvoy, name: str, api_key: str, outcomes: Outcomes, *, visitors: int) -> None:
        self._front = front
        self._name = name
        self._headers = {"x-api-key": api_key}
        self._outcomes = outcomes
        self._statuses: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(visitors)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for (phase, status), count in self._statuses.items():
            if status == http.client.OK:
                self._outcomes.allowed[self._name] += count
            elif status == _DENIED:
                self._outcomes.denied[self._name] += count
            else:
                self._outcomes.errors[f"{phase}: HTTP {status}"] += count

    def _visit(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._front.port, timeout=10)
        while not self._ended.wait(_PAUSE):
            phase = self._outcomes.phase
            connection.request("GET", "/", headers=self._headers)
            response = connection.getresponse()
            response.read()
            with self._lock:
                self._statuses[phase, response.status] += 1
        connection.close()
