"""What a server opens to whom."""

from ratelimit_service.errors import StartupError
from ratelimit_service.settings import Settings


def check_gateways(settings: Settings) -> None:
    """Raise StartupError if certificates are to make gateways, and nobody has to show one."""
    if settings.gateways and settings.tls_client_ca is None:
        raise StartupError(
            "RATELIMIT_GATEWAY_CERTIFICATES is set, but clients need no certificate; set RATELIMIT_TLS_CLIENT_CA to "
            "the CA that issues those of the gateways, or leave RATELIMIT_GATEWAY_CERTIFICATES empty"
        )
