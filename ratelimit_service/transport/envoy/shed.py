"""Refusing calls in Envoy, before the embedded Python is woken: less than half of what a refusal costs here.

A runtime value sets the share of the calls that Envoy matches to routes which respond by themselves, before any filter
is made for them. Unlike the overload manager's load shedding, which costs two thirds of that, it leaves alone health
checks and admin methods. The response has the same status and details as a refusal by this application.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from ratelimit_service.api.overload.control import OVERLOADED
from ratelimit_service.api.overload.shedding import Shedding
from ratelimit_service.api.status import NO_RETRY_KEY, to_metadata
from ratelimit_service.transport.envoy.worker_threads import WorkerThreads

Json: TypeAlias = dict[str, Any]

PERIOD: Final = 0.1
"""Seconds between two changes of the share."""

SOCKET_VARIABLE: Final = "RATELIMIT_ENVOY_ADMIN"
"""The environment variable with the path of Envoy's own admin socket."""

_RUNTIME_KEY: Final = "ratelimit.shed_percent"
_FILTER: Final = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
_SHED: Final = "http.ingress_http.rq_direct_response"
_TIMEOUT: Final = 1.0


def shed_routes(paths: Sequence[str], filters: Sequence[str]) -> list[Json]:
    """Routes of these PATHS that refuse calls, to stand before all others; none until it is switched on.

    No filter is made for a call that is refused: FILTERS are the names of all but the last one.
    """
    disabled = {name: {"@type": _FILTER, "disabled": True} for name in filters}
    return [
        {
            "match": {
                "path": path,
                "runtime_fraction": {"default_value": {"numerator": 0}, "runtime_key": _RUNTIME_KEY},
            },
            "direct_response": {"status": 503, "body": {"inline_string": OVERLOADED.message}},
            "response_headers_to_add": _headers(),
            "typed_per_filter_config": disabled,
        }
        for path in paths
    ]


def _headers() -> list[Json]:
    """What is in a refusal besides its status, which Envoy makes of 503: UNAVAILABLE."""
    details = [(key, b64encode(value).rstrip(b"=").decode()) for key, value in to_metadata(OVERLOADED)]
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in [*details, (NO_RETRY_KEY, "-1")]
    ]


async def keep_shedding(shedding: Shedding, socket: Path) -> None:
    """Set the share in the Envoy with this admin SOCKET as SHEDDING decides, until cancelled."""
    current, counted = 0, 0
    workers = WorkerThreads()
    while True:
        await asyncio.sleep(PERIOD)
        percent = shedding.adapt(saturated=workers.saturated())
        if percent == current == 0:
            continue
        with suppress(OSError, ValueError, TimeoutError):
            if percent != current:
                await _request(socket, "POST", f"/runtime_modify?{_RUNTIME_KEY}={percent}")
                current = percent
            shed = await _count_shed(socket)
            shedding.count(shed - counted)
            counted = shed


async def _count_shed(socket: Path) -> int:
    text = await _request(socket, "GET", f"/stats?filter=^{_SHED}$")
    found = re.search(f"{_SHED}: ([0-9]+)", text)
    return int(found[1]) if found else 0


async def _request(socket: Path, verb: str, path: str) -> str:
    async with asyncio.timeout(_TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        try:
            writer.write(f"{verb} {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n".encode())
            response = await reader.read()
        finally:
            writer.close()
    head, _, body = response.decode("utf-8", "replace").partition("\r\n\r\n")
    if " 200 " not in head.partition("\r\n")[0]:
        raise OSError(f"Envoy's admin interface answered: {head[:100]}")
    return body.strip()
