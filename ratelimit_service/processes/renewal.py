"""Telling Envoy that certificates were renewed."""

import asyncio
from pathlib import Path
from typing import Final

from ratelimit_service.doors.envoy.tls import Tls
from ratelimit_service.doors.grpcio.tls import Certificates, certificates
from ratelimit_service.processes.site import Site

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the files."""


class Renewal:
    """Watches the files of TLS, and has Envoy read them again once they have changed and fit together.

    Envoy itself only notices files that are moved into a folder, and certificates are renewed in other ways too.
    """

    def __init__(self, site: Site, found: Certificates, certificate: Path, key: Path) -> None:
        self._found = found
        folder = site.folder / "tls"
        folder.mkdir()
        self.tls = Tls(certificate.absolute(), key.absolute(), _absolute(site.settings.tls_client_ca), folder)
        """What Envoy is to serve."""
        self.tls.write()

    async def watch(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if await asyncio.to_thread(self._found.renewed) is not None:
                self.tls.tell_renewed()


def renewal(site: Site) -> Renewal | None:
    """What watches the files that the settings name, None if they name none. Raises StartupFault if they are bad."""
    found = certificates(site.settings)
    certificate, key = site.settings.tls_certificate, site.settings.tls_key
    if found is None or certificate is None or key is None:
        return None
    return Renewal(site, found, certificate, key)


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else file.absolute()
