"""Passes calls of one message from Envoy to an event loop in the same process, in batches, and their responses back."""

from ratelimit_service_crossing._crossing import fileno, take

__all__ = ["fileno", "take"]
