"""Addresses of servers."""

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}  # noqa: S104  nothing is bound here


def dialable(listen: str) -> str:
    """The address to call a server at that listens on LISTEN, also when that means every interface."""
    host, _, port = listen.rpartition(":")
    return f"{_EVERY_INTERFACE.get(host, host)}:{port}"
