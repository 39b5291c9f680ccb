"""The application embedded in Envoy, wired."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import environ
from pathlib import Path

from ratelimit_service.api.authentication import decision_admission
from ratelimit_service.api.overload.shedding import Shedding
from ratelimit_service.background import Background
from ratelimit_service.bootstrap import open_decision_plane
from ratelimit_service.errors import StartupError
from ratelimit_service.logs import set_up_logging
from ratelimit_service.operations.heartbeat import Heartbeat
from ratelimit_service.server.child import SupervisorLink, write_stacks_on_request
from ratelimit_service.server.collector import keep_few_young, tune_collector
from ratelimit_service.settings import Settings
from ratelimit_service.transport.envoy.admission import Bounds
from ratelimit_service.transport.envoy.app import EmbeddedApp, decision_methods, envoy_methods
from ratelimit_service.transport.envoy.crossing import drop_kept
from ratelimit_service.transport.envoy.direct import Methods
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.shed import SOCKET_VARIABLE, keep_shedding
from ratelimit_service.transport.envoy.unfinished import Unfinished


@asynccontextmanager
async def _open_methods() -> AsyncIterator[Methods]:
    settings = Settings()
    set_up_logging(settings.log_level, settings.log_format)
    write_stacks_on_request()
    supervisor = SupervisorLink()
    drain = Drain()
    background = Background()
    try:
        async with open_decision_plane(settings) as planes:
            heartbeat = Heartbeat(planes.degraded.current)

            def begin_drain() -> None:
                heartbeat.stop()
                supervisor.rest()
                drain.begin()

            supervisor.on_drain(begin_drain)
            admission = decision_admission(
                planes.authenticator, protect=settings.checks_protected, certificates=bool(settings.gateways)
            )
            if planes.recorder is not None:
                planes.recorder.start()
            tune_collector()
            planes.join()
            heartbeat.start()
            background.start("garbage collector", keep_few_young)
            background.start(
                "shedding", lambda: keep_shedding(Shedding(planes.overload), Path(environ[SOCKET_VARIABLE]))
            )
            planes.denials.on_forgotten = drop_kept
            supervisor.report_ready()
            count = planes.counts.calls.count
            bounds, recorder = Bounds(Unfinished(), overload=planes.overload), planes.recorder
            rls, ext_authz = planes.envoy_rate_limit, planes.envoy_authorization
            decisions = decision_methods(planes.rate_limit, admission, count, drain, bounds, recorder=recorder)
            yield decisions.with_all(
                envoy_methods(rls, ext_authz, planes.envoy_quotas, admission, count, drain, bounds, recorder=recorder)
            )
    except StartupError as error:
        supervisor.report_error(str(error))
        raise
    finally:
        await background.close()


app = EmbeddedApp(_open_methods)
