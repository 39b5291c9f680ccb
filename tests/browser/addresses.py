"""The addresses of all pages, as the console's own table of routes has them."""

from fixtures.demo import Demo
from ratelimit_service.console.routes import ROUTES

_STREAM = "/live"

PATHS = sorted({route.path for route in ROUTES if route.method == "GET" and not route.path.endswith(_STREAM)})
"""Every page, its parameters in braces."""

_QUERIES = {"/subject": "name=acme-retail", "/rules/": "name=shop"}


def address(path: str, demo: Demo) -> str:
    """A page of PATH with something to show."""
    query = next((query for start, query in _QUERIES.items() if path.startswith(start)), "")
    filled = path.format(key_id=demo.key_ids["acme-retail/checkout-eu"], name="pro")
    return f"{filled}?{query}" if query else filled
