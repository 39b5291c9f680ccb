"""A process that serves by `grpc.aio`, which the supervisor started."""

from ratelimit_service.processes.child import Child


class GrpcioChild:
    """It serves when it says so, and drains by itself when it is told to end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.name = child.name
        self.pid = child.pid
        self.ended = child.ended
        self.kill = child.kill
        self.announce_drain = child.tell_to_leave

    async def ready(self, within: float) -> None:
        """Wait until it serves. Raises StartupFault if it does not within so many seconds."""
        await self._child.ready(within)

    async def drain(self, within: float) -> None:
        """Have it send its callers elsewhere and end; its calls get at most WITHIN seconds."""
        await self._child.stop(within)
