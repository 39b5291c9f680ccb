"""Tests of `transport`."""
