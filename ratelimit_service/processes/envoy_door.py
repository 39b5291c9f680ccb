"""The processes behind the door envoy: Envoys on the public port, and one control plane behind them."""

import itertools
import json
import os

from ratelimit_service.doors.envoy.config import EnvoyPlan, envoy_config
from ratelimit_service.doors.envoy.paths import PATHS
from ratelimit_service.doors.envoy.tls import Tls
from ratelimit_service.processes.child import start
from ratelimit_service.processes.control_child import ControlPlane
from ratelimit_service.processes.envoy_admin import EnvoyAdmin
from ratelimit_service.processes.envoy_child import EnvoyChild
from ratelimit_service.processes.site import Site
from ratelimit_service.processes.slot import Slot
from ratelimit_service.processes.supervisor import Supervisor

_WORKER = "ratelimit_service.processes.envoy_worker"
_APP = "ratelimit_service.processes.embedded:app"
_THREADS = 1
"""Threads that read and write for one interpreter. With two, which wait for the interpreter and wake each other, a call
costs 31.6 us instead of 28, and a worker on two cores decides 47,000 calls a second instead of 57,000."""


def envoy_door(site: Site, tls: Tls | None) -> Supervisor:
    """The supervisor of `settings.workers` Envoys and of their control plane."""
    control = ControlPlane(site)
    numbers = itertools.count(1)

    def slot(name: str) -> Slot:
        async def start_envoy() -> EnvoyChild:
            own = site.folder / f"envoy-{next(numbers)}"
            plan = EnvoyPlan(
                app=_APP,
                hot_paths=PATHS,
                host=site.lock.host,
                port=site.lock.port,
                admin_socket=own.with_suffix(".sock"),
                control_socket=control.socket,
                max_connection_age=site.settings.max_connection_age,
                tls=tls,
            )
            config = own.with_suffix(".json")
            config.write_text(json.dumps(envoy_config(plan)))
            arguments = [str(os.getpid()), str(config), str(_THREADS)]
            child = await start(name, _WORKER, arguments, site.environment())
            return EnvoyChild(child, EnvoyAdmin(plan.admin_socket))

        return Slot(start_envoy, site.gone)

    front = [slot(f"envoy {n}") for n in range(1, site.settings.workers + 1)]
    return Supervisor(front=front, back=[Slot(control.start, site.gone)])
