"""The processes of the transport envoy: Envoys on the public port, one control plane and operations behind them."""

import asyncio
import itertools
import json
import os
from collections.abc import Sequence
from time import monotonic
from typing import Final

from ratelimit_service.background import Background
from ratelimit_service.errors import StartupError
from ratelimit_service.server.child import Child, start
from ratelimit_service.server.control_planes import ControlPlanes
from ratelimit_service.server.envoy_admin import EnvoyAdmin
from ratelimit_service.server.instance import Instance
from ratelimit_service.server.supervisor import Slot, Supervisor
from ratelimit_service.settings import Settings
from ratelimit_service.transport.envoy.admin_port import AdminPort
from ratelimit_service.transport.envoy.config import EnvoyOptions, envoy_config
from ratelimit_service.transport.envoy.crossing import find_module
from ratelimit_service.transport.envoy.paths import ENVOY_PATHS, PATHS, STREAMS
from ratelimit_service.transport.envoy.shed import SOCKET_VARIABLE
from ratelimit_service.transport.envoy.tls import Tls
from ratelimit_service.transport.grpcio.tls import Certificates

_WORKER: Final = "ratelimit_service.server.envoy_worker"
_APP: Final = "ratelimit_service.server.embedded:app"

_THREADS: Final = 1
"""Threads that read and write for one interpreter. With two, which wait for the interpreter and wake each other, a call
costs 31.6 us instead of 28, and a worker on two cores decides 47,000 calls a second instead of 57,000."""


def envoy_supervisor(
    instance: Instance,
    operations: Slot,
    http: Sequence[Slot],
    certificates: Certificates | None,
    background: Background,
) -> Supervisor:
    """The supervisor of `settings.workers` Envoys, with TLS if there are certificates, and of what is behind them.

    HTTP may be none.
    """
    control = ControlPlanes(instance)
    tls = None if certificates is None else _open_tls(instance, certificates, background)
    numbers = itertools.count(1)
    admin = instance.admin_lock

    def slot(name: str) -> Slot:
        async def start_envoy() -> EnvoyChild:
            own = instance.folder / f"envoy-{next(numbers)}"
            options = EnvoyOptions(
                app=_APP,
                hot_paths=PATHS,
                streams=STREAMS,
                shed_paths=_shed_paths(instance.settings),
                host=instance.lock.host,
                port=instance.lock.port,
                admin_socket=own.with_suffix(".sock"),
                control_socket=control.socket,
                max_connection_age=instance.settings.max_connection_age,
                max_concurrent_streams=instance.settings.max_concurrent_streams,
                tls=tls,
                gateways=sorted(instance.settings.gateways),
                crossing=find_module() if instance.settings.crossing else None,
                admin_methods=None if admin is None else AdminPort(admin.host, admin.port, control.admin_socket),
            )
            config = own.with_suffix(".json")
            config.write_text(json.dumps(envoy_config(options)))
            arguments = [str(os.getpid()), str(config), str(_THREADS)]
            environment = {**instance.environment(), SOCKET_VARIABLE: str(options.admin_socket)}
            child = await start(name, _WORKER, arguments, environment)
            return EnvoyChild(child, EnvoyAdmin(options.admin_socket))

        return Slot(start_envoy, instance.on_exit)

    front = [slot(f"envoy {n}") for n in range(1, instance.settings.workers + 1)]
    return Supervisor(front=[*front, *http], back=[Slot(control.start, instance.on_exit), operations])


def _shed_paths(settings: Settings) -> list[str]:
    """What Envoy refuses by itself: not what is to be denied, since it can only answer with an error."""
    return [path for path in PATHS if settings.on_overload == "error" or path not in ENVOY_PATHS]


_POLL_SECONDS: Final = 0.02
_IDLE_WAIT: Final = 2.0
"""Seconds that connections without a call get to have one more, whose answer then carries GOAWAY, and that proxied
calls get to end: all of them are short but health watches, which never end."""


class EnvoyChild:
    """An Envoy: it serves when its application reports that and it accepts connections."""

    def __init__(self, child: Child, admin: EnvoyAdmin) -> None:
        self._child = child
        self._admin = admin
        self.name = child.name
        self.pid = child.pid
        self.ended = child.ended
        self.kill = child.kill
        self.kill_hung = child.kill_hung

    @property
    def beats(self) -> int | None:
        """How often it has reported that it lives, None while it is not to."""
        return self._child.beats

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupError if it does not within so many seconds."""
        until = monotonic() + within
        await self._child.ready(within)
        while not await self._live():
            if monotonic() >= until:
                raise StartupError(f"{self.name} accepts no connections after {within:.0f} seconds; see its log")
            await asyncio.sleep(_POLL_SECONDS)

    def announce_drain(self) -> None:
        """Do nothing: its health is that of the process behind it."""

    async def drain(self, within: float) -> None:
        """Close its connections gracefully, wait at most WITHIN seconds until their calls have ended, and end it.

        The port is closed first: a client that was sent GOAWAY must not come back.
        """
        until = monotonic() + within
        idle_until = monotonic() + min(within, _IDLE_WAIT)
        try:
            await self._admin.close_listeners()
            await self._admin.drain_connections()
            self._child.announce_drain()
            while monotonic() < until:
                connections, calls = await self._admin.active()
                if not connections or (not calls and monotonic() >= idle_until):
                    break
                await asyncio.sleep(_POLL_SECONDS)
        except OSError:
            pass  # it has ended, or does not answer: there is nothing to wait for
        await self._child.drain(0)

    async def _live(self) -> bool:
        try:
            return await self._admin.live()
        except OSError:
            return False


_RENEWAL_CHECK_SECONDS: Final = 1.0
"""Seconds between two checks of the TLS files."""


def _open_tls(instance: Instance, certificates: Certificates, background: Background) -> Tls:
    """What Envoy serves TLS from. Every Envoy reads the files again once they have changed and fit together.

    Envoy itself only notices files that are moved into a folder, and certificates are renewed in other ways too.
    """
    folder = instance.folder / "tls"
    folder.mkdir()
    client_ca = certificates.client_ca
    tls = Tls(
        certificates.certificate.absolute(),
        certificates.key.absolute(),
        None if client_ca is None else client_ca.absolute(),
        folder,
    )
    tls.write()

    async def signal_renewals() -> None:
        tls.signal_renewal()  # in place of a signal that failed, if this is not the first run
        while True:
            await asyncio.sleep(_RENEWAL_CHECK_SECONDS)
            if await asyncio.to_thread(certificates.renewed) is not None:
                tls.signal_renewal()

    background.start("certificate renewal", signal_renewals)
    return tls
