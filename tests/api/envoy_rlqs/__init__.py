"""Tests of `api/envoy_rlqs`."""
