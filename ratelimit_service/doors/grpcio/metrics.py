"""The interceptor that counts calls."""

from ratelimit_service.doors.grpcio.call import Call, Handler
from ratelimit_service.errors import Code, ServiceError
from ratelimit_service.metrics import CallCounts


def counting(handler: Handler, counts: CallCounts) -> Handler:
    """HANDLER, whose calls are counted by method and code; a stream is one call, counted when it ends."""

    async def handle(call: Call) -> bytes:
        code = Code.CANCELLED
        try:
            answer = await handler(call)
            code = Code.OK
        except ServiceError as error:
            code = error.code
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            counts.count(call.method, code)
        return answer

    return handle
