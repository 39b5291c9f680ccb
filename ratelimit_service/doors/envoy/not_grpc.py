"""Requests that no gRPC library makes."""


class NotGrpc(Exception):
    """What arrived breaks gRPC's PROTOCOL-HTTP2. Answered as grpc-core does: INTERNAL and a sentence, no details."""


class NotACall(Exception):
    """What arrived is plain HTTP. `status` is the HTTP status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
