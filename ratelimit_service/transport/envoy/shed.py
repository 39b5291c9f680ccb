"""Refusing calls in Envoy, before the embedded Python is woken: less than half of what a refusal costs here.

Envoy's fault filter refuses a share of the calls to the hot paths, which a runtime value sets. It stands in front of
the filter that wakes Python, and unlike the overload manager's load shedding it leaves alone health checks and admin
methods. What it answers has the same status and details as a refusal by this application.
"""

import asyncio
import re
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from ratelimit_service.api.overload.control import OVERLOADED
from ratelimit_service.api.overload.shedding import Shedding
from ratelimit_service.api.status import NO_RETRY_KEY, to_metadata

Json: TypeAlias = dict[str, Any]

PERIOD: Final = 0.1
"""Seconds between two changes of the share."""

SOCKET_VARIABLE: Final = "RATELIMIT_ENVOY_ADMIN"
"""The environment variable with the path of Envoy's own admin socket."""

_RUNTIME_KEY: Final = "ratelimit.shed_percent"
_FAULT: Final = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"
_NOT_HOT: Final = ("/grpc.", "/ratelimit.v1.KeyAdminService/")
_ABORTS: Final = "http.ingress_http.fault.aborts_injected"
_TIMEOUT: Final = 1.0


def shed_filter() -> Json:
    """The filter, to stand before the one with the embedded application. It refuses nothing until it is switched on."""
    return {
        "name": "shed",
        "typed_config": {
            "@type": _FAULT,
            "abort": {"grpc_status": int(OVERLOADED.code), "percentage": {"numerator": 0}},
            "abort_percent_runtime": _RUNTIME_KEY,
            "headers": [
                {"name": ":path", "string_match": {"prefix": prefix}, "invert_match": True} for prefix in _NOT_HOT
            ],
            "disable_downstream_cluster_stats": True,
        },
    }


def local_replies() -> Json:
    """What the filter's refusals look like: `FI` is the flag of its replies, and of no others."""
    details = [(key, b64encode(value).rstrip(b"=").decode()) for key, value in to_metadata(OVERLOADED)]
    headers = [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in [*details, (NO_RETRY_KEY, "-1")]
    ]
    mapper = {
        "filter": {"response_flag_filter": {"flags": ["FI"]}},
        "headers_to_add": headers,
        "body": {"inline_string": OVERLOADED.message},
    }
    return {"mappers": [mapper]}


async def keep_shedding(shedding: Shedding, socket: Path) -> None:
    """Set the share in the Envoy with this admin SOCKET as SHEDDING decides, until cancelled."""
    current, counted = 0, 0
    while True:
        await asyncio.sleep(PERIOD)
        percent = shedding.adapt()
        if percent == current == 0:
            continue
        with suppress(OSError, ValueError, TimeoutError):
            if percent != current:
                await _request(socket, "POST", f"/runtime_modify?{_RUNTIME_KEY}={percent}")
                current = percent
            shed = await _aborts(socket)
            shedding.count(shed - counted)
            counted = shed


async def _aborts(socket: Path) -> int:
    text = await _request(socket, "GET", f"/stats?filter=^{_ABORTS}$")
    found = re.search(f"{_ABORTS}: ([0-9]+)", text)
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
