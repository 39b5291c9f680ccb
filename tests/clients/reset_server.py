"""A server that resets every call, with an error code of HTTP/2 that gRPC servers do not expose."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived


class ResetServer:
    """Resets every stream with CODE. `target` is its address."""

    def __init__(self, code: ErrorCodes) -> None:
        self._code = code
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        """Close the connections and end the threads."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._threads[0].join()  # no new ones after this
        for connection in self._connections:
            with suppress(OSError):  # the client closed first
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        try:
            connection.sendall(http.data_to_send())
            while received := connection.recv(65536):
                for event in http.receive_data(received):
                    if isinstance(event, RequestReceived):
                        http.reset_stream(event.stream_id, self._code)
                connection.sendall(http.data_to_send())
        except OSError:  # the client closed first
            return
