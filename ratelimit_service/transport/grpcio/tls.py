"""TLS from files that may change while the server runs."""

import ssl
from pathlib import Path

import grpc
import structlog

from ratelimit_service.errors import StartupError
from ratelimit_service.settings import Settings

_log = structlog.stdlib.get_logger(__name__)


class Certificates:
    """The certificate chain, its key and the CA that must have issued client certificates, as they are on disk.

    Checked when a connection is opened, so that a renewed certificate needs no restart. Files that do not fit
    together, as in the moment between the writing of one and of the other, are ignored until they do. Raises
    StartupError if they do not at the start.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self.certificate = certificate
        self.key = key
        self.client_ca = client_ca
        self._files = (certificate, key) if client_ca is None else (certificate, key, client_ca)
        self._seen: tuple[tuple[int, int], ...] = ()
        try:
            self._seen = self._stamp()
            self._configuration = self._load()
        except (OSError, ssl.SSLError) as error:
            raise StartupError(
                f"TLS cannot be set up from {self._names()}: {error}; put the right files there"
            ) from error

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for a port. With a client CA, clients must have a certificate of it."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            self.renewed,  # type: ignore[arg-type]  # None means no change, as the library's documentation says
            require_client_authentication=self.client_ca is not None,
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, or None if nothing has changed. The library calls this for every connection."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            configuration = self._load()
        except (OSError, ssl.SSLError) as error:
            _log.warning("certificate not renewed", files=self._names(), error=str(error))
            return None
        self._seen = stamp
        _log.info("certificate renewed", files=self._names())
        return configuration

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        return tuple((status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in self._files))

    def _load(self) -> grpc.ServerCertificateConfiguration:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)  # raises unless they belong together
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(self.key.read_bytes(), self.certificate.read_bytes())],
            root_certificates=None if self.client_ca is None else self.client_ca.read_bytes(),
        )

    def _names(self) -> str:
        return ", ".join(str(file) for file in self._files)


def certificates(settings: Settings) -> Certificates | None:
    """The certificates that the settings name, or None for plain text. Raises StartupError for half a set."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is not None and key is not None:
        return Certificates(certificate, key, client_ca)
    if certificate is None and key is None and client_ca is None:
        return None
    raise StartupError(
        "TLS is half set up: RATELIMIT_TLS_CERTIFICATE and RATELIMIT_TLS_KEY must both be set "
        "(and RATELIMIT_TLS_CLIENT_CA needs them); set what is missing, or none of them for plain text"
    )
