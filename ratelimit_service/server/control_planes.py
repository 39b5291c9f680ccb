"""How control planes are started, and the sockets at which Envoy and the HTTP port find the newest one."""

import itertools
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from ratelimit_service.server.child import Child, start
from ratelimit_service.server.instance import Instance

_MODULE: Final = "ratelimit_service.server.control_plane"


class ControlPlanes:
    """Starts control planes.

    `socket` is a link to the socket of the newest one that serves, and `admin_socket` to that of its admin methods, if
    these have a port of their own.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._numbers = itertools.count(1)
        self.socket = instance.control_socket
        self.admin_socket = instance.folder / "admin.sock"

    async def start(self) -> Child:
        """Start one, on a socket of its own: one that ends removes its socket."""
        number = next(self._numbers)
        own = self._instance.folder / f"control-{number}.sock"
        admin = self._instance.folder / f"admin-{number}.sock"
        links = {self.socket: own}
        if self._instance.admin_lock is not None:
            links[self.admin_socket] = admin
        # In clear text: the socket is ours, and TLS ends at Envoy.
        environment = self._instance.environment(
            listen=f"unix:{own}",
            admin_listen=f"unix:{admin}" if self.admin_socket in links else "",
            tls_certificate=None,
            tls_key=None,
            tls_client_ca=None,
        )
        on_ready = partial(_link, links)
        name = "control plane" if self._instance.settings.manages else "health"
        return await start(name, _MODULE, [str(os.getpid())], environment, on_ready=on_ready)


def _link(links: Mapping[Path, Path]) -> None:
    """Make each name of LINKS a link to its socket, replacing the one that was there."""
    for name, own in links.items():
        link = own.with_suffix(".link")
        link.symlink_to(own)
        link.replace(name)
