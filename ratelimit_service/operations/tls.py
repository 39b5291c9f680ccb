"""The certificate of the ports for HTTP/1.1, which may be renewed while the server runs."""

import ssl
from pathlib import Path

import structlog

from ratelimit_service.errors import StartupError

_log = structlog.stdlib.get_logger(__name__)


class TlsFiles:
    """A certificate chain and its key, as they are on disk when a connection is opened.

    With a client CA, peers must have a certificate of it.

    Files that do not fit together, as in the moment between the writing of one and of the other, are ignored until they
    do. Raises StartupError if they do not at the start.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._files = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        try:
            self._seen = self._stamp()
            self._context = self._load()
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(str(file) for file in self._files)
            raise StartupError(f"TLS cannot be set up from {names}: {error}") from error

    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self._context = self._load()
                self._seen = stamp
        except (OSError, ssl.SSLError) as error:
            _log.warning("certificate not renewed", file=str(self._certificate), error=str(error))
        return self._context

    def _stamp(self) -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files)]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._certificate, self._key, password="")
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._client_ca)
        context.set_alpn_protocols(["http/1.1"])
        return context
