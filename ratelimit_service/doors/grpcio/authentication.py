"""The interceptors that find out who calls."""

from ratelimit_service.doors.authentication import Authenticator, require
from ratelimit_service.doors.grpcio.call import Call, Context, Handler
from ratelimit_service.keys.token import Role


def needing_token(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for callers with a good token of any role; which role an action needs is the endpoint's to say."""

    async def handle(call: Call) -> bytes:
        call.caller = await authenticator.authenticate(_authorization(call.context))
        return await handler(call)

    return handle


def taking_token(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for anybody; whoever sends a token is known by it, and one that is not good is refused."""

    async def handle(call: Call) -> bytes:
        authorization = _authorization(call.context)
        if authorization is not None:
            call.caller = await authenticator.authenticate(authorization)
        return await handler(call)

    return handle


def needing_gateway(handler: Handler, authenticator: Authenticator) -> Handler:
    """HANDLER, for callers of role gateway only."""

    async def handle(call: Call) -> bytes:
        call.caller = await authenticator.authenticate(_authorization(call.context))
        require(call.caller, Role.GATEWAY)
        return await handler(call)

    return handle


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None
