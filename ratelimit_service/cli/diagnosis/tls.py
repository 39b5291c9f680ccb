"""The certificate files."""

import ssl
from collections.abc import Iterator

from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.settings import Settings


def examine_tls(settings: Settings) -> Iterator[Finding]:
    """Whether the files are there, readable, and belong together."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if not (certificate or key or client_ca):
        return
    if not (certificate and key):
        missing = "RATELIMIT_TLS_KEY" if certificate else "RATELIMIT_TLS_CERTIFICATE"
        yield Finding.fault("tls", f"{missing} is not set; TLS needs the certificate and its private key")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
        if client_ca:
            context.load_verify_locations(client_ca)
    except FileNotFoundError:
        absent = next(path for path in (certificate, key, client_ca) if path and not path.exists())
        yield Finding.fault("tls", f"there is no file {absent}")
    except ssl.SSLError as error:
        yield Finding.fault("tls", f"{certificate} and {key} cannot be used: {error.reason or 'not PEM files'}")
    except OSError as error:
        yield Finding.fault("tls", f"the certificate files cannot be read: {error.strerror}")
    else:
        yield Finding.ok("tls", f"serves with {certificate}" + (", asks clients for theirs" if client_ca else ""))
