"""Tests of `buckets`."""
