"""Benchmarks: what a decision costs, transport by transport. See README.md beside this file."""
