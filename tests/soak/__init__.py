"""Long runs under kills and restarts."""
