"""Streams, deadlines and callers that disconnect."""

import asyncio
import threading
import time

import grpc
import pytest

from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from transport.grpcio.running import CHECKS, RunningServer, refusal

STREAM = f"{CHECKS}/StreamCheckLimit"


def message(**check: object) -> bytes:
    """One message of a stream."""
    return checks_pb2.StreamCheckLimitRequest(check=check).SerializeToString()


def parsed(data: bytes) -> checks_pb2.CheckResult:
    """The result in one answer of a stream."""
    return checks_pb2.StreamCheckLimitResponse.FromString(data).result


async def test_a_stream_answers_in_order(running: RunningServer, api_key: str) -> None:
    """Twenty fit the bucket and the rest is denied, in the order of the checks; an invalid one gets an error."""
    costs = [1] * 10 + [9_007_199_255] + [1] * 15
    call = running.channel.stream_stream(STREAM)(
        iter([message(api_key=api_key, cost=cost) for cost in costs]), timeout=10
    )
    results = [parsed(data) async for data in call]
    assert [result.WhichOneof("result") for result in results] == ["decision"] * 10 + ["error"] + ["decision"] * 15
    decisions = [result.decision for result in results if result.HasField("decision")]
    assert [decision.allowed for decision in decisions] == [True] * 20 + [False] * 5
    assert results[10].error.field == "cost"


async def test_a_stream_answers_each_check_at_once(running: RunningServer, api_key: str) -> None:
    """Each check is answered before the next is sent, and half-closing ends the stream with OK."""
    call = running.channel.stream_stream(STREAM)(timeout=10)
    for left in (19, 18, 17):
        await call.write(message(api_key=api_key))
        assert parsed(await call.read()).decision.remaining == left
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_invalid_message_ends_a_stream(running: RunningServer, api_key: str) -> None:
    """What came before is answered, then the stream ends with INVALID_ARGUMENT."""
    call = running.channel.stream_stream(STREAM)(iter([message(api_key=api_key), b"\xff\xff"]), timeout=10)
    assert parsed(await call.read()).decision.allowed
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert refusal(caught.value).fields == ["message"]


async def test_a_cancelled_stream_leaves_nothing_running(running: RunningServer, api_key: str) -> None:
    """After a caller has cancelled, no task of the stream is left, and the server answers as before."""
    before = len(asyncio.all_tasks())
    for _ in range(20):
        call = running.channel.stream_stream(STREAM)(timeout=10)
        await call.write(message(api_key=api_key, cost=0))
        await call.read()
        call.cancel()
    for _ in range(100):
        if len(asyncio.all_tasks()) <= before + 1:
            break
        await asyncio.sleep(0.02)
    assert len(asyncio.all_tasks()) <= before + 1
    assert (await running.check(api_key=api_key)).allowed


async def test_a_call_past_its_deadline_is_not_charged(running: RunningServer, api_key: str) -> None:
    """Calls that reach the server after their deadline take no tokens."""
    codes = []

    def call_in_vain() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{running.server.port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
            connected.set()
            asleep.wait(10)
            request = checks_pb2.CheckLimitRequest(api_key=api_key).SerializeToString()
            calls = [channel.unary_unary(f"{CHECKS}/CheckLimit").future(request, timeout=0.05) for _ in range(10)]
            codes.extend(call.code() for call in calls)

    assert (await running.check(api_key=api_key)).remaining == 19
    connected, asleep = threading.Event(), threading.Event()
    thread = threading.Thread(target=call_in_vain)
    thread.start()
    await asyncio.to_thread(connected.wait, 10)
    asleep.set()
    time.sleep(0.3)  # noqa: ASYNC251 the server's loop must be blocked while the deadlines pass
    await asyncio.to_thread(thread.join)
    assert codes == [grpc.StatusCode.DEADLINE_EXCEEDED] * 10
    assert (await running.check(api_key=api_key, cost=0)).remaining >= 19
