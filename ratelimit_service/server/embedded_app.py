"""The application inside Envoy, wired."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ratelimit_service.api.authentication import GatewayAdmission, OpenAdmission
from ratelimit_service.bootstrap import open_planes
from ratelimit_service.errors import StartupFault
from ratelimit_service.logs import set_up_logging
from ratelimit_service.server.child import Report
from ratelimit_service.server.serving import settle_collector
from ratelimit_service.settings import Settings
from ratelimit_service.transport.envoy.app import EmbeddedApp, decision_methods, proxy_methods
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import App


@asynccontextmanager
async def _open_methods() -> AsyncIterator[Mapping[str, App]]:
    settings = Settings()
    set_up_logging(settings.log_level, settings.log_format)
    report = Report()
    drain = Drain()
    report.on_drain(asyncio.get_running_loop(), drain.begin)
    try:
        async with open_planes(settings) as planes:
            admission = (GatewayAdmission if settings.protect_checks else OpenAdmission)(planes.authenticator)
            settle_collector()
            planes.join()
            report.ready()
            count = planes.counts.calls.count
            yield {
                **decision_methods(planes.rate_limit, admission, count, drain),
                **proxy_methods(planes.envoy_rate_limit, planes.envoy_authorization, admission, count),
            }
    except StartupFault as fault:
        report.fault(str(fault))
        raise


app = EmbeddedApp(_open_methods)
