"""The main program of the processes that serve by `grpc.aio`: workers of the transport grpcio, and control planes."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

import structlog

from ratelimit_service.bootstrap import Planes, open_planes
from ratelimit_service.server.child import SupervisorLink, run_child
from ratelimit_service.server.freed_memory import keep_releasing
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_log = structlog.stdlib.get_logger(__name__)

Serve: TypeAlias = Callable[[Planes, GrpcServer, Settings, SupervisorLink, asyncio.Event], Awaitable[None]]
"""What a process does once its server is open: reports that, waits for the event (SIGTERM), and stops the server."""


def run_server(serve: Serve, *, behind_envoy: bool = False) -> None:
    """Run a process with one server, until SERVE returns or the parent, whose id is the first argument, ends.

    BEHIND_ENVOY: whether all its calls come through our Envoy.
    """
    run_child(partial(_run, serve, behind_envoy=behind_envoy))


async def _run(serve: Serve, settings: Settings, supervisor: SupervisorLink, *, behind_envoy: bool) -> None:
    async with open_planes(settings) as planes:
        server = GrpcServer(settings, planes, behind_envoy=behind_envoy)
        stop = asyncio.Event()
        # Only now: up to here no call can be lost, and SIGTERM ends the process at once.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await server.start()
        tune_gc()
        releasing = asyncio.create_task(keep_releasing())
        await _unless_failed(server, serve(planes, server, settings, supervisor, stop))
        releasing.cancel()


async def _unless_failed(server: GrpcServer, serving: Awaitable[None]) -> None:
    """Wait for SERVING, and end this process if the server fails before: the supervisor then starts another."""
    task = asyncio.ensure_future(serving)
    failed = asyncio.create_task(server.failed())
    await asyncio.wait((task, failed), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        _log.error("the gRPC library has stopped serving; this process ends, and another one takes its place")
        os._exit(1)  # at once: what is left to close would only delay the next process
    failed.cancel()
    await task


_YOUNG_OBJECTS: Final = 50_000
"""Objects allocated and not freed that start a collection of the young ones: well above what a full load of calls
holds."""


def tune_gc() -> None:
    """Have the garbage collector run less often, and never over what is there now. Call it when everything is open.

    Calls leave no cycles behind, so their objects go by reference counts. With Python's own threshold of 700 the
    collector would go through all calls in flight several hundred times a second, and find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
