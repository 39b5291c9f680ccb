"""The processes of a server: who starts what, restarts it, and ends it."""
