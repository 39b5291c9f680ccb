"""What a CheckResponse says, for spans and the access log."""

from collections.abc import Mapping

from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimit_service.tracing.span import Value


def describe_authorization(response: bytes) -> Mapping[str, Value]:
    """The decision in a CheckResponse, as its dynamic metadata have it for Envoy's own access log."""
    fields = CheckResponse.FromString(response).dynamic_metadata.fields
    described: dict[str, Value] = {"outcome": "allowed" if fields["allowed"].bool_value else "denied"}
    for name in ("reason", "key_id", "plan", "limit"):
        if name in fields and fields[name].string_value:
            described[name] = fields[name].string_value
    return described
