"""The interceptor that turns every error into a rich status."""

from typing import Final

import grpc

from ratelimit_service.doors.grpcio.call import Call, Handler
from ratelimit_service.doors.status import clip, to_metadata, to_service_error
from ratelimit_service.errors import Code

STATUS_CODES: Final = {code: next(status for status in grpc.StatusCode if status.value[0] == code) for code in Code}
"""The library's name for each of our codes."""


def answering_errors(handler: Handler) -> Handler:
    """HANDLER, whose errors reach the caller as a status with details."""

    async def handle(call: Call) -> bytes:
        try:
            return await handler(call)
        except grpc.aio.BaseError:
            raise  # the library's own: the call is over, there is nobody to tell
        except Exception as caught:  # noqa: BLE001 the last place that can answer
            error = to_service_error(caught, call.method)
            await call.context.abort(STATUS_CODES[error.code], clip(error.message), to_metadata(error))

    return handle
