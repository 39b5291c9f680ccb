"""Attacks on a real server, with a victim beside them: what a stranger can do to others, and what must hold."""
