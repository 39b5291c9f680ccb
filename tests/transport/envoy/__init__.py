"""Tests of `transport/envoy`."""
