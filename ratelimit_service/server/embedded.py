"""What Envoy imports as the embedded application."""

from ratelimit_service.importing import without_collector, without_rich

with without_collector(), without_rich():
    from ratelimit_service.server.embedded_app import app

__all__ = ["app"]
