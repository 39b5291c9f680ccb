"""What a probe sees of an operations port."""

import time
from http.client import HTTPConnection
from typing import NamedTuple

from fixtures.served import START_SECONDS


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    headers: dict[str, str]


def ask(address: str, path: str, method: str = "GET") -> Answer:
    """Send a request on a connection of its own."""
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.read().decode(), headers)
    finally:
        connection.close()


def wait_for(address: str, status: int, text: str) -> None:
    """Return once /readyz has this status and begins with TEXT."""
    deadline = time.monotonic() + START_SECONDS
    while (answer := ask(address, "/readyz")).status != status or not answer.text.startswith(text):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
