"""Whether a form was sent by a page of ours: by where the browser says it comes from, and by a token in the form.

Either is enough against a forged form; both have to hold, and the cookie is not sent with one in the first place
(SameSite=Strict).
"""

import hmac
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers


def is_same_origin(headers: Headers) -> bool:
    """Whether the browser says that a page of this very host sent the form. False when it says nothing."""
    site = headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = headers.get("origin")
    if origin is None:
        return site is not None
    # The scheme is left out: behind a proxy that terminates TLS, it is another one here than in the browser.
    return urlsplit(origin).netloc == headers.get("host")


def form_token(session_value: str) -> str:
    """Return the token that forms of a session carry: only a page of that session can know it."""
    return hmac.digest(session_value.encode(), b"console form", sha256).hex()


def is_form_token(session_value: str, sent: str) -> bool:
    """Whether SENT is the token of the session's forms, in constant time."""
    return hmac.compare_digest(form_token(session_value).encode(), sent.encode("utf-8", "replace"))
