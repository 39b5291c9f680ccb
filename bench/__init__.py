"""Benchmarks: what a decision costs, door by door. See README.md beside this file."""
