"""The main program of the processes that serve by `grpc.aio`: workers of the transport grpcio, and control planes."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import structlog

from ratelimit_service.background import Background
from ratelimit_service.bootstrap import DecisionPlane, Planes, open_plane
from ratelimit_service.server.child import SupervisorLink, run_child
from ratelimit_service.server.collector import keep_few_young, tune_collector
from ratelimit_service.server.freed_memory import keep_releasing
from ratelimit_service.settings import Settings
from ratelimit_service.transport.grpcio.server import GrpcServer

_log = structlog.stdlib.get_logger(__name__)

Serve: TypeAlias = Callable[[DecisionPlane, GrpcServer, Settings, SupervisorLink, asyncio.Event], Awaitable[None]]
"""What a process does once its server is open: reports that, waits for the event (SIGTERM), and stops the server."""


def run_server(serve: Serve, *, behind_envoy: bool = False) -> None:
    """Run a process with one server, until SERVE returns or the parent, whose id is the first argument, ends.

    BEHIND_ENVOY: whether all its calls come through our Envoy.
    """
    run_child(partial(_run, serve, behind_envoy=behind_envoy))


async def _run(serve: Serve, settings: Settings, supervisor: SupervisorLink, *, behind_envoy: bool) -> None:
    async with open_plane(settings) as planes:
        key_admin = planes.key_admin if isinstance(planes, Planes) else None
        server = GrpcServer(settings, planes, key_admin, behind_envoy=behind_envoy)
        stop = asyncio.Event()
        # Only now: up to here no call can be lost, and SIGTERM ends the process at once.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        if planes.recorder is not None:
            planes.recorder.start()
        await server.start()
        tune_collector()
        background = Background()
        background.start("garbage collector", keep_few_young)
        releasing = asyncio.create_task(keep_releasing())
        await _unless_failed(server, serve(planes, server, settings, supervisor, stop))
        releasing.cancel()
        await background.close()


async def announce(server: GrpcServer, supervisor: SupervisorLink) -> None:
    """Report the whole server's drain to health watchers once the supervisor announces it, and keep serving."""
    draining = asyncio.Event()
    supervisor.on_drain(draining.set)
    await draining.wait()
    await server.announce_drain()


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
