"""Bucket stores: Redis by Lua, this process alone, and the pure reference."""
