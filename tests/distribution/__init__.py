"""Tests of what releases consist of."""
