"""Tests of calls in JSON over HTTP."""
