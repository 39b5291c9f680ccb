"""The control plane behind the door envoy, on a unix socket."""

import itertools
import os
from pathlib import Path

from ratelimit_service.processes.child import Child, start
from ratelimit_service.processes.grpcio_child import GrpcioChild
from ratelimit_service.processes.site import Site

_MODULE = "ratelimit_service.processes.control_plane"


class ControlPlane:
    """Starts control planes. `socket` always leads to the newest one that serves."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._numbers = itertools.count(1)
        self.socket = site.folder / "control.sock"

    async def start(self) -> GrpcioChild:
        """Start one, on a socket of its own: one that ends takes its socket with it."""
        own = self._site.folder / f"control-{next(self._numbers)}.sock"
        # In clear text: the socket is ours, and TLS ends at Envoy.
        environment = self._site.environment(
            listen=f"unix:{own}", tls_certificate=None, tls_key=None, tls_client_ca=None
        )
        child = await start("control plane", _MODULE, [str(os.getpid())], environment)
        return _Leading(child, self.socket, own)


class _Leading(GrpcioChild):
    """A control plane that `socket` is made to lead to once it serves."""

    def __init__(self, child: Child, socket: Path, own: Path) -> None:
        super().__init__(child)
        self._socket = socket
        self._own = own

    async def ready(self, within: float) -> None:
        """Wait until it serves, then let new connections come to it. Raises StartupFault."""
        await super().ready(within)
        link = self._own.with_suffix(".link")
        link.symlink_to(self._own)
        link.replace(self._socket)
