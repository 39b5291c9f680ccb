"""Tests of `devstores`."""
