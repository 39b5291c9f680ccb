"""The framing of the transport envoy by itself: what must hold for any bytes."""

from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.api.messages import MAX_MESSAGE
from ratelimit_service.errors import DeadlineExceeded, ResourceExhausted
from ratelimit_service.transport.envoy.framing import (
    FrameReader,
    ProtocolError,
    check_deadline,
    deadline_of,
    frame,
    single_message,
)

messages = st.lists(st.binary(max_size=300), max_size=20)


@given(messages, st.data())
def test_how_a_body_arrives_does_not_matter(sent: list[bytes], data: st.DataObject) -> None:
    """Cut anywhere, the same messages come out, in order, and nothing is left over."""
    body = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=30)))
    frames = FrameReader(None)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += frames.feed(body[start:end])
    assert found == sent
    assert not frames.incomplete
    assert frames.error is None


@given(st.binary(max_size=300) | st.binary(max_size=300).map(frame))
def test_the_fast_path_agrees_with_the_slow_one(body: bytes) -> None:
    """A body is read as one message exactly if cutting it up gives that message and nothing else."""
    frames = FrameReader(None)
    found = frames.feed(body)
    whole = len(found) == 1 and not frames.incomplete and frames.error is None
    assert single_message(body) == (found[0] if whole else None)


@pytest.mark.parametrize(("size", "taken"), [(0, True), (MAX_MESSAGE, True), (MAX_MESSAGE + 1, False)])
def test_the_fast_path_has_the_same_bound(size: int, taken: bool) -> None:
    """A message of the maximum size is accepted, a larger one is not, whichever path it takes."""
    assert (single_message(frame(b"x" * size)) is not None) is taken
    assert (FrameReader(None).feed(frame(b"x" * size)) == [b"x" * size]) is taken


@given(messages, st.binary(min_size=1, max_size=50))
def test_an_incomplete_message_is_detected(sent: list[bytes], part: bytes) -> None:
    """The beginning of a message is kept back, and known to be only that."""
    frames = FrameReader(None)
    assert frames.feed(b"".join(map(frame, sent)) + frame(part)[:-1]) == sent
    assert frames.incomplete


@given(messages, st.integers(MAX_MESSAGE + 1, 2**32 - 1))
def test_a_large_message_is_refused_by_its_prefix(sent: list[bytes], size: int) -> None:
    """The messages before it are read, and it is refused before any of it has arrived."""
    frames = FrameReader(None)
    assert frames.feed(b"".join(map(frame, sent)) + b"\0" + size.to_bytes(4, "big")) == sent
    assert isinstance(frames.error, ResourceExhausted)
    assert frames.error.metadata == {"size": str(size), "limit": str(MAX_MESSAGE)}


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_any_bytes_are_read_without_an_exception(body: bytes, encoding: bytes) -> None:
    """Garbage yields messages, a refusal or a rest, and never an exception."""
    frames = FrameReader(encoding)
    found = frames.feed(body)
    assert sum(len(message) + 5 for message in found) <= len(body)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"1234567890S", b" 1S", b"\xff\xffS"])
def test_an_invalid_timeout(value: bytes) -> None:
    """What gRPC's specification does not allow is refused."""
    with pytest.raises(ProtocolError):
        deadline_of({b"grpc-timeout": value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"1M", 60), (b"10S", 10), (b"10000m", 10), (b"10000000u", 10), (b"999999999n", 1)],
)
def test_every_unit_of_time(value: bytes, seconds: float) -> None:
    """A deadline is so far away as it says, in whatever unit it is, and lets the call pass until then."""
    before = monotonic()
    deadline = deadline_of({b"grpc-timeout": value})
    check_deadline(deadline)
    assert deadline is not None
    assert before + seconds - 1e-6 <= deadline <= monotonic() + seconds + 1e-6


def test_a_deadline_that_has_passed() -> None:
    """A nanosecond has passed before it is checked."""
    with pytest.raises(DeadlineExceeded):
        check_deadline(deadline_of({b"grpc-timeout": b"1n"}))


def test_no_deadline() -> None:
    """A call without one waits for as long as it takes."""
    check_deadline(deadline_of({}))
