"""The processes of the transport envoy: Envoys on the public port, and one control plane behind them."""

import asyncio
import itertools
import json
import os
from pathlib import Path
from time import monotonic
from typing import Final

from ratelimit_service.errors import StartupFault
from ratelimit_service.server.child import Child, start
from ratelimit_service.server.control_plane import ControlPlane
from ratelimit_service.server.envoy_admin import EnvoyAdmin
from ratelimit_service.server.runtime import Runtime
from ratelimit_service.server.supervisor import Slot, Supervisor
from ratelimit_service.transport.envoy.app import PATHS
from ratelimit_service.transport.envoy.config import EnvoyPlan, envoy_config
from ratelimit_service.transport.envoy.tls import Tls
from ratelimit_service.transport.grpcio.tls import Certificates, certificates

_POLL_SECONDS: Final = 0.02
_IDLE_WAIT: Final = 2.0
"""Seconds that connections without a call get to have one more, whose answer then sends the caller elsewhere, and that
proxied calls get to end: all of them are short but those that watch health, which never end."""


class EnvoyChild:
    """An Envoy: it serves when its application says so and it takes connections; it leaves when its callers have."""

    def __init__(self, child: Child, admin: EnvoyAdmin) -> None:
        self._child = child
        self._admin = admin
        self.name = child.name
        self.pid = child.pid
        self.ended = child.ended
        self.kill = child.kill
        self.announce_drain = child.request_drain

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupFault if it does not within so many seconds."""
        until = monotonic() + within
        await self._child.ready(within)
        while True:
            if await self._live():
                return
            if monotonic() >= until:
                raise StartupFault(f"{self.name} takes no connections after {within:.0f} seconds; see its log")
            await asyncio.sleep(_POLL_SECONDS)

    async def drain(self, within: float) -> None:
        """Send its callers elsewhere, wait at most WITHIN seconds until their calls have ended, and end it.

        The port is closed first: who is sent away must not come back.
        """
        until = monotonic() + within
        idle_until = monotonic() + min(within, _IDLE_WAIT)
        try:
            await self._admin.close_listeners()
            await self._admin.send_callers_away()
            self._child.request_drain()
            while monotonic() < until:
                connections, calls = await self._admin.active()
                if not connections or (not calls and monotonic() >= idle_until):
                    break
                await asyncio.sleep(_POLL_SECONDS)
        except OSError:
            pass  # it has ended, or does not answer: there is nothing to wait for
        await self._child.stop(0)

    async def _live(self) -> bool:
        try:
            return await self._admin.live()
        except OSError:
            return False


_RENEWAL_CHECK_SECONDS: Final = 1.0
"""Seconds between two looks at the files."""


class Renewal:
    """Watches the files of TLS, and has Envoy read them again once they have changed and fit together.

    Envoy itself only notices files that are moved into a folder, and certificates are renewed in other ways too.
    """

    def __init__(self, runtime: Runtime, found: Certificates, certificate: Path, key: Path) -> None:
        self._found = found
        folder = runtime.folder / "tls"
        folder.mkdir()
        self.tls = Tls(certificate.absolute(), key.absolute(), _absolute(runtime.settings.tls_client_ca), folder)
        """What Envoy is to serve."""
        self.tls.write()

    async def watch(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(_RENEWAL_CHECK_SECONDS)
            if await asyncio.to_thread(self._found.renewed) is not None:
                self.tls.signal_renewal()


def renewal(runtime: Runtime) -> Renewal | None:
    """What watches the files that the settings name, None if they name none. Raises StartupFault if they are bad."""
    found = certificates(runtime.settings)
    certificate, key = runtime.settings.tls_certificate, runtime.settings.tls_key
    if found is None or certificate is None or key is None:
        return None
    return Renewal(runtime, found, certificate, key)


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else file.absolute()


_WORKER = "ratelimit_service.server.envoy_worker"
_APP = "ratelimit_service.server.embedded_app:app"
_THREADS = 1
"""Threads that read and write for one interpreter. With two, which wait for the interpreter and wake each other, a call
costs 31.6 us instead of 28, and a worker on two cores decides 47,000 calls a second instead of 57,000."""


def envoy_supervisor(runtime: Runtime, tls: Tls | None) -> Supervisor:
    """The supervisor of `settings.workers` Envoys and of their control plane."""
    control = ControlPlane(runtime)
    numbers = itertools.count(1)

    def slot(name: str) -> Slot:
        async def start_envoy() -> EnvoyChild:
            own = runtime.folder / f"envoy-{next(numbers)}"
            plan = EnvoyPlan(
                app=_APP,
                hot_paths=PATHS,
                host=runtime.lock.host,
                port=runtime.lock.port,
                admin_socket=own.with_suffix(".sock"),
                control_socket=control.socket,
                max_connection_age=runtime.settings.max_connection_age,
                tls=tls,
            )
            config = own.with_suffix(".json")
            config.write_text(json.dumps(envoy_config(plan)))
            arguments = [str(os.getpid()), str(config), str(_THREADS)]
            child = await start(name, _WORKER, arguments, runtime.environment())
            return EnvoyChild(child, EnvoyAdmin(plan.admin_socket))

        return Slot(start_envoy, runtime.on_exit)

    front = [slot(f"envoy {n}") for n in range(1, runtime.settings.workers + 1)]
    return Supervisor(front=front, back=[Slot(control.start, runtime.on_exit)])
