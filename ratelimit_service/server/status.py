"""What a server says of itself at `/status` of its operations port, for those who examine it from outside.

Facts by which servers are compared with each other and with their stores: version, plane, schema, clocks, certificates,
and in which way it is degraded. No secret, and no name of a key, subject or plan: anybody may ask.
"""

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from time import monotonic, time
from typing import Any, Final

from ratelimit_service.bootstrap import DecisionPlane
from ratelimit_service.operations.readiness import Readiness
from ratelimit_service.postgres.schema import Schema, head, read_schema
from ratelimit_service.server.certificate_ends import certificate_ends, certificate_files
from ratelimit_service.settings import Settings

SHARED_SECONDS: Final = 0.5
"""Age up to which what was read of the stores answers others, too: however many ask, the stores are asked once."""

_READ_SECONDS: Final = 2.0
"""That a store has to answer in. What is not known by then is left out."""


class ServerStatus:
    """The facts of one server. Belongs to the running loop.

    `planes` is what is open; before it is set, nothing is known of the stores but what `readiness` says.
    """

    def __init__(self, settings: Settings, readiness: Readiness) -> None:
        self.planes: DecisionPlane | None = None
        self._settings = settings
        self._readiness = readiness
        self._version = version("ratelimit-service")
        self._needed = head()
        self._reading: asyncio.Task[Mapping[str, Any]] | None = None
        self._reading_schema: asyncio.Future[Schema] | None = None
        self._fresh_until = 0.0

    async def report(self) -> Mapping[str, Any]:
        """All of it, to be sent as JSON. Times are seconds since 1970."""
        if self._reading is None or (self._reading.done() and monotonic() >= self._fresh_until):
            self._reading = asyncio.create_task(self._read())
        read = await asyncio.shield(self._reading)
        state = self._readiness.report()
        return {
            "version": self._version,
            "plane": self._settings.plane,
            "transport": self._settings.transport,
            "ready": state.ready,
            "state": state.text,
            "workers": {"serving": self._readiness.serving(), "wanted": self._readiness.wanted},
            "stores_opened": self.planes is not None,
            "silent": dict(self._readiness.silent_effects()),
            "faults": dict(self._readiness.faults()),
            "degraded": dict(self._readiness.degraded()),
            "reasons": list(self._readiness.reasons()),
            **read,
            "time": time(),
        }

    async def _read(self) -> Mapping[str, Any]:
        """What takes a question to a store, or a file."""
        offsets, schema, certificates = await asyncio.gather(
            self._clock_offsets(), self._schema(), asyncio.to_thread(self._certificates)
        )
        self._fresh_until = monotonic() + SHARED_SECONDS
        return {"clock_offsets": offsets, "schema": schema, "certificates": certificates}

    async def _clock_offsets(self) -> Mapping[str, float]:
        if self.planes is None:
            return {}
        readers = self.planes.clock_offsets
        read = (asyncio.wait_for(reader(), _READ_SECONDS) for reader in readers.values())
        found = await asyncio.gather(*read, return_exceptions=True)
        return {
            name: round(offset, 6)
            for name, offset in zip(readers, found, strict=True)
            if not isinstance(offset, BaseException)
        }

    async def _schema(self) -> Mapping[str, Any]:
        """The revision that this program needs, and the one that there is.

        `obstacle` says why the program does not work on that, empty if it does.
        """
        if self._reading_schema is None or self._reading_schema.done():  # one that hangs has one thread, not all
            url = self._settings.url(self._settings.database_variable)
            self._reading_schema = asyncio.ensure_future(asyncio.to_thread(read_schema, url))
            self._reading_schema.add_done_callback(lambda read: read.cancelled() or read.exception())
        try:
            found = await asyncio.wait_for(asyncio.shield(self._reading_schema), _READ_SECONDS)
        except Exception:  # noqa: BLE001 for whatever reason, it is not known
            return {"needed": self._needed}
        return {
            "needed": self._needed,
            "found": found.revision,
            "newer": found.is_newer,
            "obstacle": found.obstacle,
        }

    def _certificates(self) -> list[Mapping[str, Any]]:
        """When each certificate that is served, or that clients are checked by, ends; or why that is not known.

        Without the paths of the files, which are nobody else's business.
        """
        found: list[Mapping[str, Any]] = []
        for variable, file in certificate_files(self._settings).items():
            try:
                ends = [each.timestamp() for each in certificate_ends(file)]
            except OSError as error:
                found.append({"variable": variable, "error": error.strerror})
            except ValueError as error:
                found.append({"variable": variable, "error": str(error)})
            else:
                found.append({"variable": variable, "ends": ends})
        return found
