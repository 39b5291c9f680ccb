"""The headers that tell an HTTP client its limits."""
