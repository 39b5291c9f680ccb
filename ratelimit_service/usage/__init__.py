"""Usage: what was counted in the bucket store, moved to the archive exactly once, and kept there for a while."""
