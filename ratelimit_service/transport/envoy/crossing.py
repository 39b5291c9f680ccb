"""Calls of one message that cross from Envoy to the event loop by our own module, where it is installed.

A filter of it stands before the one that embeds Python. It takes plain calls whose message is whole and passes them to
the event loop, all that wait at once; whatever else comes goes on to that other filter (docs/adr/0042).
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from ratelimit_service.api.presented import CERTIFICATE_HEADER
from ratelimit_service.api.recording import TRACEPARENT, TRACESTATE
from ratelimit_service.transport.envoy.direct import Methods, run
from ratelimit_service.transport.envoy.framing import Receive, Scope, Send

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
def taking_calls(methods: Methods) -> Iterator[None]:
    """Pass calls that cross by the module to METHODS in the running event loop.

    Does nothing where Envoy has not opened the module.
    """
    if find_module() is None:
        yield
        return
    crossing = import_module(f"{_PACKAGE}._crossing")
    if not hasattr(crossing, "Call"):  # a version whose calls only applications can take
        methods = Methods(methods.apps)
    loop = asyncio.get_running_loop()
    starting = _Starting(methods, loop)
    descriptor = crossing.fileno()
    if descriptor < 0:
        yield
        return
    loop.add_reader(descriptor, lambda: starting.start(crossing.take()))
    try:
        with _keeping(crossing) if hasattr(crossing, "call_on_kept") else nullcontext():  # not in its first version
            yield
    finally:
        loop.remove_reader(descriptor)


class _Starting:
    """Starts calls of METHODS in the running LOOP: those that begin without a task, and the tasks of the others."""

    def __init__(self, methods: Methods, loop: asyncio.AbstractEventLoop) -> None:
        self._apps, self._begins = methods
        self._loop = loop
        self._tasks: set[asyncio.Future[None]] = set()

    def start(self, calls: Sequence[Any]) -> None:
        """Start CALLS, which came together. The module answers one that fails, and the others go on."""
        begun = []
        for call in calls:
            try:
                begin = self._begins.get(call.path) if self._begins else None
                rest = None if begin is None else begin(call)
                if rest is None:
                    self._start_task(call.scope, call.receive, call.send)
                else:
                    begun.append(rest)
            except Exception:  # noqa: BLE001
                _log.exception("a call has failed")
        for rest in begun:
            try:
                run(rest)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001
                _log.exception("a call has failed")

    def _start_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._apps[scope["path"]](scope, receive, send), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a call has failed", exc_info=error)


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
