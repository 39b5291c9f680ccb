"""Tests of `rules_import`."""
