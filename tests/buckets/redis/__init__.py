"""Tests of `buckets/redis`."""
