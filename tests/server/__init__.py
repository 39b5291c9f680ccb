"""The processes of a server: supervision, restarts and shutdown."""
