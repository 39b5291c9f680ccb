"""Tests of `postgres`."""
