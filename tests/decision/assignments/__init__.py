"""Tests of `decision/assignments`."""
