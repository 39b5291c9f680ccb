"""Benchmarks of both transports. See README.md beside this file."""
