"""A real upstream: an HTTP server that returns what it received."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Upstream"

    def _respond(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        request = {
            "method": self.command,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
        }
        body = json.dumps(request).encode()
        with self.server.lock:
            self.server.served += 1
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _respond  # noqa: N815 names that the library requires

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Upstream(ThreadingHTTPServer):
    """Responds 200 with the method, path and headers of the request as JSON. `served` counts requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.served = 0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def close(self) -> None:
        """Stop it."""
        self.shutdown()
        self.server_close()
        self._thread.join()
