"""Tests of `api/envoy_rls`."""
