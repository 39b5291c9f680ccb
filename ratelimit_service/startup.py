"""Refusing to start."""


class StartupFault(Exception):
    """The server cannot start. The message says what is wrong and what to do, and holds no secret."""
