"""The health service: which parts of this server can be relied on."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import structlog
from grpc_health.v1 import health_pb2

from ratelimit_service.transport.grpcio.methods import KEY_ADMIN_SERVICE
from ratelimit_service.transport.grpcio.open_streams import HealthService

Probe = Callable[[], Awaitable[None]]
"""Returns when the component answers, raises any exception when it does not."""

PROBE_SECONDS: Final = 1.0
"""Seconds between two probes of the components, and the longest that one may take to answer."""

POSTGRES: Final = "postgres"
REDIS: Final = "redis"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_log = structlog.stdlib.get_logger(__name__)


class Health:
    """Keeps the health service up to date.

    Components `postgres` and `redis` have the status that their probes find. KeyAdminService has that of Postgres.
    Decisions are made without either, so RateLimitService, Envoy's services and the server as a whole serve until the
    server drains; then nothing does. Of services that this server does not have nothing is known.
    """

    def __init__(self, probes: Mapping[str, Probe], services: Collection[str]) -> None:
        """SERVICES are those that the server has, by their full names."""
        self.servicer = HealthService()
        self._probes = probes
        self._deciding = [service for service in services if service != KEY_ADMIN_SERVICE]
        self._manages = KEY_ADMIN_SERVICE in services
        self._serving: dict[str, bool] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Probe once, then keep probing."""
        self.servicer.set("", _SERVING)
        for service in self._deciding:
            self.servicer.set(service, _SERVING)
        await self._probe_all()
        self._watching = asyncio.create_task(self._watch())

    async def drain(self) -> None:
        """Report every component as not serving, from now on."""
        await self.stop()
        self.servicer.drain()

    async def stop(self) -> None:
        """Stop probing."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe_all()

    async def _probe_all(self) -> None:
        found = await asyncio.gather(*(_probe_error(probe) for probe in self._probes.values()))
        for component, error in zip(self._probes, found, strict=True):
            self._set(component, error)

    def _set(self, component: str, error: Exception | None) -> None:
        serving = error is None
        if self._serving.get(component) is not serving:
            if error is not None:
                _log.warning("component does not answer", component=component, error=str(error) or repr(error))
            elif component in self._serving:
                _log.info("component answers again", component=component)
            self._serving[component] = serving
        status = _SERVING if serving else _NOT_SERVING
        self.servicer.set(component, status)
        if component == POSTGRES and self._manages:
            self.servicer.set(KEY_ADMIN_SERVICE, status)


async def _probe_error(probe: Probe) -> Exception | None:
    try:
        await asyncio.wait_for(probe(), PROBE_SECONDS)
    except Exception as error:  # noqa: BLE001 for whatever reason, the component does not answer
        return error
    return None
