"""What is read from a request that Envoy wants authorized."""

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service._gen.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimit_service.api.envoy_ext_authz.reader import resource_of

_PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["%41", "%C3%A9", "%F0%A0%80%80", "%F3%A0%80%81", "%F3%A0%80%81" * 100, "%FF", "%", "%4", "\u00e9" * 300]
    ),
    st.sampled_from(["x" * 250, "%41" * 400, "%00" * 300, "%F0%A0" * 200, "\u200b" * 90]),
)


def test_an_escaped_question_mark_is_part_of_the_path() -> None:
    """The query begins at the first question mark as it was sent: one that is escaped would hide the rest of a path."""
    request = {"http": {"method": "GET", "path": "/a%3Fb%2Fc?d=%65"}}
    assert resource_of(AttributeContext(request=request)) == "GET /a?b/c"


@given(st.lists(_PIECES, max_size=40).map("".join))
def test_a_part_of_a_path_is_as_good_as_the_whole(path: str) -> None:
    """What is read of a long path makes the resource that all of it would make."""
    whole = unquote(path.partition("?")[0]) if "%" in path.partition("?")[0] else path.partition("?")[0]
    printable = "".join(character if character.isprintable() else "?" for character in f"GET {whole}")
    expected = printable.encode("utf-8", "replace")[:256].decode("utf-8", "ignore")
    assert resource_of(AttributeContext(request={"http": {"method": "GET", "path": path}})) == expected
