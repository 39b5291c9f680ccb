"""The console, seen in a real browser."""
