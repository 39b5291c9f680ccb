"""Calls of one message that cross from Envoy to the event loop by our own module, where it is installed.

A filter of it stands before the one that embeds Python. It takes plain calls whose message is whole and passes them to
the event loop, all that wait at once; whatever else comes goes on to that other filter (docs/adr/0042).
"""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from ratelimit_service.api.presented import CERTIFICATE_HEADER
from ratelimit_service.api.recording import TRACEPARENT, TRACESTATE
from ratelimit_service.transport.envoy.framing import App

Json: TypeAlias = dict[str, Any]

NAME: Final = "crossing"
"""Of the filter."""

_PACKAGE: Final = "ratelimit_service_crossing"
_TYPES: Final = "type.googleapis.com"
_FILTER: Final = f"{_TYPES}/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
_HEADERS: Final = ("authorization", "grpc-timeout", CERTIFICATE_HEADER, TRACEPARENT, TRACESTATE)
"""What the application reads of a call's headers."""

_COLLECT_SECONDS: Final = 0.05
"""In which is counted what was given of each kept response."""

_COUNTED_AT_ONCE: Final = 200
"""Kept responses of which that is counted at once: calls wait meanwhile."""

_log = structlog.stdlib.get_logger(__name__)


def find_module() -> Path | None:
    """Where the module is installed, for this version of Python; None if it is not."""
    package = PathFinder.find_spec(_PACKAGE)
    if package is None or package.submodule_search_locations is None:
        return None
    module = PathFinder.find_spec("_crossing", package.submodule_search_locations)
    return None if module is None or module.origin is None else Path(module.origin)


def crossing_filter(module: Path, paths: Sequence[str]) -> Json:
    """The filter, which takes calls of these PATHS, each of one message."""
    config = {
        "@type": _FILTER,
        "dynamic_module_config": {"module": {"local": {"filename": str(module)}}},
        "filter_name": NAME,
        "filter_config": {"@type": f"{_TYPES}/google.protobuf.StringValue", "value": "\n".join((*paths, *_HEADERS))},
    }
    return {"name": NAME, "typed_config": config}


@contextmanager
def taking_calls(methods: Mapping[str, App]) -> Iterator[None]:
    """Pass calls that cross by the module to METHODS, by their paths, in the running event loop.

    Does nothing where Envoy has not opened the module.
    """
    if find_module() is None:
        yield
        return
    crossing = import_module(f"{_PACKAGE}._crossing")
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Future[None]] = set()

    def take() -> None:
        for call in crossing.take():
            scope = call.scope
            try:
                task = asyncio.ensure_future(methods[scope["path"]](scope, call.receive, call.send), loop=loop)
            except Exception:  # noqa: BLE001 the module answers it, and the others that came with it go on
                _log.exception("a call has failed")
                continue
            tasks.add(task)
            task.add_done_callback(end)

    def end(task: asyncio.Future[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a call has failed", exc_info=error)

    descriptor = crossing.fileno()
    if descriptor < 0:
        yield
        return
    loop.add_reader(descriptor, take)
    try:
        with _keeping(crossing) if hasattr(crossing, "call_on_kept") else nullcontext():  # not in its first version
            yield
    finally:
        loop.remove_reader(descriptor)


@contextmanager
def _keeping(crossing: Any) -> Iterator[None]:  # noqa: ANN401  our module in C
    """Keep responses that may be given again, and have counted how often they were."""
    loop = asyncio.get_running_loop()

    def collect_later() -> None:
        loop.call_later(_COLLECT_SECONDS, collect)

    def collect() -> None:
        left = crossing.collect()
        if left:
            loop.call_later(_COLLECT_SECONDS / (1 + left // _COUNTED_AT_ONCE), collect)

    crossing.call_on_kept(collect_later)
    try:
        yield
    finally:
        crossing.call_on_kept(None)
        crossing.drop()  # what was kept is over, so each turn has fewer left
        while crossing.collect():
            pass


def drop_kept() -> None:
    """Give no response again that is kept now, if this process keeps any."""
    crossing = sys.modules.get(f"{_PACKAGE}._crossing")
    if crossing is not None and hasattr(crossing, "drop"):
        crossing.drop()
