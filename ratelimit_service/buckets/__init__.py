"""Bucket stores: Redis with Lua, the memory of this process, and the pure reference."""
