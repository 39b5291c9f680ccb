"""The health check of the image: exits with 0 if the server of this container serves, by /readyz, else with 1.

Prints what /readyz answered: `ready`, or `degraded: ...` with the reason, which is healthy too: calls are decided.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException

_SECONDS = 3.0
_MAX_BYTES = 1_000
_OK = 200
_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  it is dialled here, not listened on


def main() -> int:
    """Ask /readyz, and return the exit code."""
    listen = os.environ.get("RATELIMIT_OPERATIONS_LISTEN", "127.0.0.1:9464")
    if not listen:
        print("RATELIMIT_OPERATIONS_LISTEN is empty, so nothing says how the server is; run without this health check")
        return 1
    host, _, port = listen.rpartition(":")
    try:
        connection = HTTPConnection(f"{_ANY.get(host, host)}:{port}", timeout=_SECONDS)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        print(response.read(_MAX_BYTES).decode(errors="replace").strip())
    except (OSError, HTTPException, ValueError) as error:
        print(f"no answer from {listen}: {error}")
        return 1
    return 0 if response.status == _OK else 1


if __name__ == "__main__":
    sys.exit(main())
