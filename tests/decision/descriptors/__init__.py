"""Tests of `decision/descriptors`."""
