"""What Envoy imports as the embedded application."""

from ratelimit_service.importing import without_collector

with without_collector():
    from ratelimit_service.server.embedded_app import app

__all__ = ["app"]
