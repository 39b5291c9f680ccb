"""How the processes of the transport grpcio are started: workers that serve all of the server's plane, on its ports."""

import os
from typing import Final

from ratelimit_service.server.child import Child, start
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.supervisor import Slot, Supervisor

_MODULE: Final = "ratelimit_service.server.grpcio"


def grpcio_supervisor(instance: Instance, operations: Slot) -> Supervisor:
    """The supervisor of `settings.workers` workers, and of the operations process."""

    def slot(name: str) -> Slot:
        async def start_worker() -> Child:
            admin = "" if instance.admin_lock is None else instance.admin_lock.address
            environment = instance.environment(listen=instance.lock.address, admin_listen=admin)
            return await start(name, _MODULE, [str(os.getpid())], environment)

        return Slot(start_worker, instance.on_exit)

    return Supervisor(front=[slot(f"worker {n}") for n in range(1, instance.settings.workers + 1)], back=[operations])
