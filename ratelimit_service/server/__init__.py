"""The processes of a server: how they are started, restarted and ended."""
