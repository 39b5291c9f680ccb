"""Faults that are injected for real, and what callers may notice of them."""
