"""A stand-in for a language model: answers as the OpenAI API has them, in one piece or streamed, with a usage.

`python3 tests/api/envoy/language_model.py` listens on 127.0.0.1:8080 until it is interrupted, for trying the examples.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

PAUSE_SECONDS = 0.002


class LanguageModel:
    """Listens on PORT, by default one of its own. A request chooses its answer by the field `answer`.

    `prompt` and `completion` are the tokens of its usage, of which none is reported if they are missing; `status` is
    200 if it is. `chunks` is how many events a streamed answer has, and `cut` whether it ends before the usage. It
    waits for `delay` seconds before it answers.
    """

    def __init__(self, port: int = 0) -> None:
        self._lock = threading.Lock()
        self.reported = 0
        """The weighted tokens of all answers so far that were sent whole: prompt + 4 * completion."""
        self.in_flight = self.most_in_flight = 0
        self.headers: list[dict[str, str]] = []
        """Of each request, names in lower case."""
        model = self

        class Handler(_Handler):
            upstream = model

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()

    def began(self, headers: dict[str, str]) -> None:
        """Count a request."""
        with self._lock:
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def ended(self, cost: int) -> None:
        """Count what its answer reported."""
        with self._lock:
            self.in_flight -= 1
            self.reported += cost


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # of 5 connections at once the next ones would be refused


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: ClassVar[LanguageModel]

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        request: dict[str, Any] = json.loads(body) if body else {}
        answer = request.get("answer", {})
        self.upstream.began({name.lower(): value for name, value in self.headers.items()})
        cost = 0
        time.sleep(answer.get("delay", 0))
        try:
            usage = {f"{name}_tokens": answer[name] for name in ("prompt", "completion") if name in answer}
            if request.get("stream"):
                self._stream(request, answer, usage or None)
            else:
                self._whole(request, answer, usage or None)
            if not answer.get("cut"):
                cost = answer.get("prompt", 0) + 4 * answer.get("completion", 0)
        except OSError:  # the client has gone
            self.close_connection = True
        finally:
            self.upstream.ended(cost)

    def _whole(self, request: dict[str, Any], answer: dict[str, Any], usage: dict[str, int] | None) -> None:
        text = {"model": request.get("model"), "choices": [{"message": {"content": "word " * 20}}], "usage": usage}
        data = json.dumps(text).encode()
        self.send_response(answer.get("status", 200))
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, request: dict[str, Any], answer: dict[str, Any], usage: dict[str, int] | None) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in _events(request, answer.get("chunks", 3), usage):
            if answer.get("cut") and event == "[DONE]":
                self.close_connection = True
                return
            data = f"data: {event}\n\n".encode()
            if not (answer.get("cut") and usage is not None and '"usage": {' in event):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.wfile.flush()
            time.sleep(PAUSE_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the library
        """Nothing."""


def _events(request: dict[str, Any], chunks: int, usage: dict[str, int] | None) -> Iterator[str]:
    for _ in range(chunks):
        yield json.dumps({"model": request.get("model"), "choices": [{"delta": {"content": "word "}}], "usage": None})
    if usage is not None:
        yield json.dumps({"model": request.get("model"), "choices": [], "usage": usage})
    yield "[DONE]"


if __name__ == "__main__":
    LanguageModel(int(sys.argv[1]) if len(sys.argv) > 1 else 8_080)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
