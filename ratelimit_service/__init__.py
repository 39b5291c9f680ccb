"""The rate-limit decision service."""
