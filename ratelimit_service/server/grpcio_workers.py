"""How the processes of the transport grpcio are started: workers that serve all of the server's plane, on its ports."""

import os
from collections.abc import Sequence
from typing import Final

from ratelimit_service.server.child import Child, start
from ratelimit_service.server.control_planes import ControlPlanes
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.supervisor import Slot, Supervisor

_MODULE: Final = "ratelimit_service.server.grpcio"


def grpcio_supervisor(instance: Instance, operations: Slot, http: Sequence[Slot]) -> Supervisor:
    """The supervisor of `settings.workers` workers, of the operations process, and of HTTP, which may be none.

    What HTTP asks is a process of its own, as behind Envoy: what comes by HTTP takes nothing of the workers.
    """

    def slot(name: str) -> Slot:
        async def start_worker() -> Child:
            admin = "" if instance.admin_lock is None else instance.admin_lock.address
            environment = instance.environment(listen=instance.lock.address, admin_listen=admin)
            return await start(name, _MODULE, [str(os.getpid())], environment)

        return Slot(start_worker, instance.on_exit)

    workers = [slot(f"worker {n}") for n in range(1, instance.settings.workers + 1)]
    behind = [Slot(ControlPlanes(instance).start, instance.on_exit)] if http else []
    return Supervisor(front=[*workers, *http], back=[*behind, operations])
