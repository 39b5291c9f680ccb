"""What is read from a request that Envoy wants authorized."""

from ratelimit_service._gen.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimit_service.api.envoy_ext_authz.reader import resource_of


def test_an_escaped_question_mark_is_part_of_the_path() -> None:
    """The query begins at the first question mark as it was sent: one that is escaped would hide the rest of a path."""
    request = {"http": {"method": "GET", "path": "/a%3Fb%2Fc?d=%65"}}
    assert resource_of(AttributeContext(request=request)) == "GET /a?b/c"
