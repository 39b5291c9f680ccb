"""Tests of the operations port."""
