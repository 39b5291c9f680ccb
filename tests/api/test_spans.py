"""Scanning a message before it is parsed."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service._gen.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from ratelimit_service.api.wire import TooManyFields, spans, varint

DESCRIPTOR = 0x12
_OTHER = st.sampled_from(
    [b"\x0a\x01d", b"\x18\x05", b"\x79" + bytes(8), b"\x7d" + bytes(4), b"\x7b\x7c", b"\x82\x01\x02xy", b"\xf8\x07\x01"]
)
"""Fields of other kinds: text, a number, fixed ones, a group, and two with numbers above 15."""


def field(data: bytes) -> bytes:
    """A descriptor as a field of a request."""
    return bytes([DESCRIPTOR]) + varint(len(data)) + data


@given(st.lists(st.one_of(st.binary(max_size=20_000).map(field), _OTHER), max_size=20))
def test_finds_what_protobuf_finds(fields: list[bytes]) -> None:
    """The places of the messages, between fields of any other kind, and never more fields than there are."""
    data = b"".join(fields)
    found = spans(data, 0, len(data), DESCRIPTOR, 2 * len(fields))
    expected = [each for each in fields if each[0] == DESCRIPTOR]
    assert [field(data[start:end]) for start, end in found] == expected
    if fields:
        with pytest.raises(TooManyFields):
            spans(data, 0, len(data), DESCRIPTOR, len(fields) - 1)


def test_of_a_real_message() -> None:
    """Descriptors in a request, and entries in these."""
    entries = [{"key": f"k{number}", "value": "v" * 300} for number in range(3)]
    data = RateLimitRequest(domain="d", descriptors=[{"entries": entries}] * 40, hits_addend=7).SerializeToString()
    found = spans(data, 0, len(data), DESCRIPTOR, 42)
    assert len(found) == 40
    assert {len(spans(data, start, end, 0x0A, 3)) for start, end in found} == {3}


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Malformed ones are left to the parser, and nothing outside of the message is found."""
    try:
        found = spans(data, 0, len(data), DESCRIPTOR, 50)
    except TooManyFields:
        return
    assert all(0 <= start <= len(data) and end <= len(data) for start, end in found)


@pytest.mark.parametrize("data", [b"\xff" * 65_536, b"\x12" + b"\xff" * 65_535, b"\x08" + b"\xff" * 65_535])
def test_endless_numbers(data: bytes) -> None:
    """A number without an end is given up after ten bytes: all of it would take a second."""
    began = time.thread_time()
    assert spans(data, 0, len(data), DESCRIPTOR, 1_000) == []
    assert time.thread_time() - began < 0.01
