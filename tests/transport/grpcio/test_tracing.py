"""Groups of checks on a stream, and runs of the store that fail, in spans."""

import asyncio
from urllib.parse import urlsplit

from faults.proxy import FaultProxy
from fixtures.otlp_receiver import attributes, receiving
from ratelimit_service._gen.ratelimit.v1 import rate_limit_service_pb2 as checks_pb2
from transport.grpcio.conftest import FREE, MakeSettings
from transport.grpcio.running import CHECKS, open_server


async def test_a_run_that_fails_says_so(make_settings: MakeSettings, valkey_url: str) -> None:
    """The run's span has an error, and the call's that it was decided without it. Groups of a stream have spans."""
    with receiving() as receiver, FaultProxy(urlsplit(valkey_url).port or 0) as proxy:
        endpoint = f"http://{receiver.address}"
        changes = {"redis_url": proxy.url, "store_timeout": 5.0, "otlp_endpoint": endpoint, "trace_sampling": 1.0}
        settings = await asyncio.to_thread(make_settings, **changes)
        async with open_server(settings) as running:
            assert running.planes.recorder is not None
            running.planes.recorder.start()
            await running.plan("create", plan=FREE)
            api_key = (await running.key("create", plan="free", subject="traced")).create.secret
            stream = running.channel.stream_stream(f"{CHECKS}/StreamCheckLimit")()
            request = checks_pb2.StreamCheckLimitRequest(check={"api_key": api_key})
            await stream.write(request.SerializeToString())
            await stream.read()
            await stream.done_writing()
            await stream.read()
            proxy.lose_next_reply()
            await running.check(api_key=api_key)
        calls = {span.name: span for span in receiver.spans if span.kind == span.SPAN_KIND_SERVER}
        assert attributes(calls[f"{CHECKS}/StreamCheckLimit"[1:]])["ratelimit.checks"] == 1
        check = calls[f"{CHECKS}/CheckLimit"[1:]]
        assert attributes(check)["ratelimit.source"] == "DEGRADED"
        failed = [span for span in receiver.spans if span.name == "charge" and span.status.message]
        assert [link.span_id for span in failed for link in span.links] == [check.span_id]
