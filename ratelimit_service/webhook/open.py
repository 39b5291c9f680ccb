"""The webhook that the settings describe."""

from typing import Final

from ratelimit_service.webhook.address import Endpoint
from ratelimit_service.webhook.sender import WebhookSender

MIN_SECRET: Final = 16
"""Characters of a secret at least."""


def open_webhook(url: str, secret: str, *, allow_private: bool) -> WebhookSender | None:
    """Return a sender of messages, None without a URL.

    Raises ValueError, which never repeats the URL or the secret, for one that cannot be used.
    """
    if not url:
        return None
    try:
        endpoint = Endpoint.parse(url, allow_private=allow_private)
    except ValueError as error:
        raise ValueError(f"RATELIMIT_ALERT_WEBHOOK_URL cannot be used: it {error}") from None
    if len(secret) < MIN_SECRET:
        raise ValueError(
            f"RATELIMIT_ALERT_WEBHOOK_SECRET has {len(secret)} characters; messages are signed with it, so set one of "
            f"at least {MIN_SECRET}, such as that of `openssl rand -hex 32`"
        )
    return WebhookSender(endpoint, allow_private=allow_private)
