"""Tests of `api/key_admin`."""
