"""The addresses of all pages, as the console's own table of routes has them."""

import re

from fixtures.demo import Demo
from ratelimit_service.console.routes import ROUTES

_STREAM = "/live"

PATHS = sorted({route.path for route in ROUTES if route.method == "GET" and not route.path.endswith(_STREAM)})
"""Every page, its parameters in braces."""


def address(path: str, demo: Demo) -> str:
    """A page of PATH with something to show."""
    values = {
        "key_id": demo.key_ids["acme-retail/checkout-eu"],
        "plan": "pro",
        "subject": "acme-retail",
        "domain": "shop",
        "name": {"/plans": "pro", "/subjects": "acme-retail", "/rules": "shop"}.get(path.partition("/{")[0], ""),
    }
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values[found[1]], path)
