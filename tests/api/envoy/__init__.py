"""Tests of `api/envoy`."""
