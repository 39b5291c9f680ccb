"""What stock clients see of streams."""

import time

from transport.conformance.call import STREAM, CallSpec, check, stream
from transport.conformance.clients import Client
from transport.conformance.test_calls import CANCELLED, DEADLINE, EXHAUSTED, INVALID, Key, left


def test_answers_come_in_order(client: Client, key: Key) -> None:
    """Each check is answered in its place; an invalid one gets an error and the stream continues."""
    costs = [1] * 10 + [9_007_199_255] + [3] * 3 + [2]
    outcome = client.call(stream(*({"api_key": key[1], "cost": cost} for cost in costs)))
    results = outcome.stream_results()
    assert outcome.code == 0
    assert [result.error.field for result in results] == [""] * 10 + ["cost"] + [""] * 4
    decisions = [result.decision for result in results if result.HasField("decision")]
    assert [decision.remaining for decision in decisions] == [*range(19, 9, -1), 7, 4, 1, 1]
    assert not decisions[-1].allowed


def test_more_than_one_group(client: Client, key: Key) -> None:
    """A thousand checks in one go are answered, all of them, in spec."""
    outcome = client.call(stream(*({"api_key": key[1], "cost": 0, "resource": f"r{n}"} for n in range(1000))))
    assert outcome.code == 0
    assert len(outcome.answers) == 1000
    assert left(client, key) == 20


def test_an_empty_stream(client: Client) -> None:
    """A stream that is closed without a check ends with OK and no answer."""
    outcome = client.call(CallSpec(STREAM, [], stream=True))
    assert (outcome.code, outcome.answers) == (0, [])


def test_an_invalid_message_ends_it(client: Client, key: Key) -> None:
    """What came before is answered; then INVALID_ARGUMENT, and what came after is not charged."""
    spec = stream(*[{"api_key": key[1]}] * 4)
    spec.messages[2] = b"\xff\xff"
    outcome = client.call(spec)
    assert (outcome.code, len(outcome.answers)) == (INVALID, 2)
    assert left(client, key) == 18


def test_a_message_over_64_kib_ends_it(client: Client, key: Key) -> None:
    """What came before is answered; then RESOURCE_EXHAUSTED."""
    spec = stream(*[{"api_key": key[1]}] * 2)
    spec.messages.append(b"x" * 65_537)
    outcome = client.call(spec)
    assert (outcome.code, outcome.reason, len(outcome.answers)) == (EXHAUSTED, "MESSAGE_TOO_LARGE", 2)


def test_a_cancelled_stream(client: Client, key: Key) -> None:
    """A caller that cancels has its answers so far, and the server keeps serving others."""
    spec = stream(*[{"api_key": key[1]}] * 3)
    spec.cancel_after = 0.5
    outcome = client.call(spec)
    assert (outcome.code, len(outcome.answers)) == (CANCELLED, 3)
    assert client.call(check(api_key=key[1])).decision().remaining == 16


def test_a_stream_with_a_deadline(client: Client, key: Key) -> None:
    """A stream that is left open ends with DEADLINE_EXCEEDED at its deadline."""
    spec = stream({"api_key": key[1]})
    spec.timeout, spec.cancel_after = 0.5, 5.0
    began = time.monotonic()
    outcome = client.call(spec)
    assert (outcome.code, len(outcome.answers)) == (DEADLINE, 1)
    assert time.monotonic() - began < 2
