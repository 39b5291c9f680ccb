"""The processes behind the door grpcio: workers that serve everything, all on the public port."""

import os

from ratelimit_service.processes.child import start
from ratelimit_service.processes.grpcio_child import GrpcioChild
from ratelimit_service.processes.site import Site
from ratelimit_service.processes.slot import Slot
from ratelimit_service.processes.supervisor import Supervisor

_WORKER = "ratelimit_service.processes.grpcio_worker"


def grpcio_door(site: Site) -> Supervisor:
    """The supervisor of `settings.workers` workers."""

    def slot(name: str) -> Slot:
        async def start_worker() -> GrpcioChild:
            environment = site.environment(listen=site.lock.address)
            return GrpcioChild(await start(name, _WORKER, [str(os.getpid())], environment))

        return Slot(start_worker, site.gone)

    return Supervisor(front=[slot(f"worker {n}") for n in range(1, site.settings.workers + 1)], back=[])
