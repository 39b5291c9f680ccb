"""Fuzzers: whatever comes in, nothing crashes, hangs or grows."""
