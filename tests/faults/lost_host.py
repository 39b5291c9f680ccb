"""A host that is lost: what is sent to it is dropped, and nobody says so."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EADDRINUSE


@contextmanager
def lost_host(port: int = 0) -> Iterator[int]:
    """Drop what asks for a connection with a port of loopback as long as the block lasts; 0: any port. Yields it.

    The kernel does that for a listener whose queue is full of connections that nobody accepts.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, port)
        listener.listen(0)
        address = listener.getsockname()
        answered = True
        while answered:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
            answered = bool(select.select([], [client], [], 0.2)[1])
        yield address[1]


def _bind(listener: socket.socket, port: int) -> None:
    """Bind it, once the process that had the port has let go of it."""
    deadline = time.monotonic() + 5
    while True:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
