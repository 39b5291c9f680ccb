"""Calls of which more is recorded than counts: spans for OpenTelemetry, and lines of the access log."""
