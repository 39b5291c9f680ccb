"""Configuration in files: plans, rules, keys and overrides as documents, compared with those of a server."""
