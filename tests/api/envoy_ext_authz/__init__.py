"""Tests of `api/envoy_ext_authz`."""
