"""Streams of reports, on which assignments are sent at any time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import Final

from ratelimit_service.api.envoy_rlqs.reader import MAX_REPORT
from ratelimit_service.api.envoy_rlqs.service import EnvoyQuotaService, QuotaStream
from ratelimit_service.api.messages import check_stream_headers
from ratelimit_service.api.overload.fair_queue import Share
from ratelimit_service.errors import ServiceError, release
from ratelimit_service.transport.envoy.admission import Method
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import (
    App,
    Receive,
    Scope,
    Send,
    deadline_of,
    frame,
    headers_of,
    presented_by,
)
from ratelimit_service.transport.envoy.responses import ResponseStream
from ratelimit_service.transport.envoy.stream import groups_of, next_event
from ratelimit_service.transport.envoy.unfinished import Patience, Unfinished

_AT_ONCE: Final = 256
"""Reports that are read in one go, of those that arrived together."""

_CONNECTION_BYTES: Final = 4 * MAX_REPORT
_PROCESS_BYTES: Final = 64 * MAX_REPORT
"""Bytes of reports that are not whole, of one connection and of all: only gateways are waited for here."""

_PATIENCE: Final = Patience(20.0, MAX_REPORT // 1024)
"""That with a report. An Envoy with many new buckets, which it makes one by one, has little time for sending it."""


def quota_stream(method: Method, service: EnvoyQuotaService, drain: Drain) -> App:
    """An application that passes the reports of a stream to SERVICE, and sends what that assigns."""
    admission = method.admission
    unfinished = Unfinished(_CONNECTION_BYTES, _PROCESS_BYTES)

    async def respond(scope: Scope, receive: Receive, responses: ResponseStream) -> None:
        check_stream_headers(sum(len(name) + len(value) for name, value in scope["headers"]))
        headers = headers_of(scope)
        presented = presented_by(scope, headers, certificates=admission.certificates)
        caller = await admission.admit(presented, deadline_of(headers))
        with admission.watching(presented) as ended, service.open(caller) as stream:
            writing = asyncio.create_task(_write(stream, responses, ended))
            groups: AsyncGenerator[list[bytes], None] = groups_of(
                receive,
                headers.get(b"grpc-encoding"),
                partial(next_event, drain=drain, revoked=ended),
                partial(unfinished.begin, scope.get("client"), _PATIENCE),
                _AT_ONCE,
                max_message=MAX_REPORT,
            )
            try:
                async with aclosing(groups):
                    async for messages in groups:
                        if writing.done():
                            writing.result()
                        await stream.report(messages, ended)
            finally:
                writing.cancel()
                await asyncio.wait((writing,))
                if not writing.cancelled():
                    writing.exception()  # retrieved: the caller has gone, which the reader finds out, too

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        began, responses = monotonic(), ResponseStream(send)
        try:
            method.bounds.overload.check_open(Share("", scope.get("client")))
            await respond(scope, receive, responses)
        except Exception as error:  # noqa: BLE001 the last place that can respond
            if isinstance(error, ServiceError):
                method.failures.report(error, method.name)
            code = await responses.fail(error, method.name)
            release(error)
        else:
            code = await responses.end()
        method.count(method.name, code, monotonic() - began)

    return handle


async def _write(stream: QuotaStream, responses: ResponseStream, ended: "asyncio.Future[None]") -> None:
    """Send what is assigned, until cancelled. Raises CallerGone, and what ENDED fails with."""
    while True:
        await responses.write(frame(await stream.responses()), ended)
        await stream.pause()
