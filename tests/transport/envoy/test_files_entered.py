"""How many files a reader has to open to follow a call."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import ratelimit_service
from fixtures.served import make_settings
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service.api.authentication import decision_admission
from ratelimit_service.bootstrap import open_planes
from ratelimit_service.decision.limit import Limit, TokenBucket
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.plans import PlanDraft
from ratelimit_service.transport.envoy.admission import Bounds
from ratelimit_service.transport.envoy.app import EmbeddedApp, decision_methods
from ratelimit_service.transport.envoy.drain import Drain
from ratelimit_service.transport.envoy.framing import Event, Scope, frame
from ratelimit_service.transport.envoy.paths import CHECK
from ratelimit_service.transport.envoy.unfinished import Unfinished

MAX_FILES = 22
ENTERED_BY_CALLS_THAT_WAIT = "api/overload/fair_queue.py"
"""On a machine that is busy there may be such a call."""

PACKAGE = Path(ratelimit_service.__file__).parent
HEADERS = [(b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"5S")]


@contextmanager
def files_entered() -> Iterator[set[str]]:
    """Collects the files of the package whose functions are called meanwhile, except for generated ones.

    What other tasks that run already call is left out: background work of a fixed period would enter its files.
    """
    entered: set[str] = set()
    background = asyncio.all_tasks() - {asyncio.current_task()}

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or not path.is_relative_to(PACKAGE) or "_gen" in path.parts:
            return
        if asyncio.current_task() not in background:
            entered.add(str(path.relative_to(PACKAGE)))

    sys.setprofile(profile)
    try:
        yield entered
    finally:
        sys.setprofile(None)


async def call(app: EmbeddedApp, message: bytes) -> CheckLimitResponse:
    """One CheckLimit as Envoy makes it."""
    sent: list[Event] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": frame(message), "more_body": False}

    async def send(event: Event) -> None:
        sent.append(event)

    scope: Scope = {"type": "http", "path": CHECK, "method": "POST", "headers": HEADERS}
    await app(scope, receive, send)
    assert sent[-1]["headers"] == [(b"grpc-status", b"0")]
    return CheckLimitResponse.FromString(sent[1]["body"][5:])


async def test_a_call_enters_few_files(valkey_url: str, migrated_database_url: Callable[[], str]) -> None:
    """An allowed CheckLimit of a known key enters at most 22 files on the transport envoy, from ASGI to Valkey."""
    settings = make_settings(migrated_database_url(), valkey_url, "envoy")
    async with open_planes(settings, needs_token=False) as planes:
        limit = Limit("burst", TokenBucket(1_000, 1_000, 1_000_000))
        plan = PlanDraft(name="free", limits=(limit,), on_store_failure=OnStoreFailure.DENY, description="")
        await planes.services.plans.create("test", plan)
        draft = KeyDraft(plan="free", subject="s", description="", expires_us=None)
        _, api_key = await planes.services.keys.create("test", draft)
        app = EmbeddedApp(lambda: None)  # type: ignore[arg-type, return-value]
        app._methods = decision_methods(
            planes.rate_limit,
            decision_admission(planes.authenticator, protect=False),
            planes.counts.calls.count,
            Drain(),
            Bounds(Unfinished(), planes.overload),
        ).apps
        message = CheckLimitRequest(api_key=str(api_key), resource="r").SerializeToString()
        traces = []
        assert (await call(app, message)).allowed  # makes the key known
        for _ in range(5):
            await asyncio.sleep(0.1)  # what others schedule, which enters files of its own, does not last that long
            with files_entered() as entered:
                assert (await call(app, message)).allowed
            traces.append(entered)
    files = set.intersection(*traces) - {ENTERED_BY_CALLS_THAT_WAIT}
    assert {"transport/envoy/unary.py", "decision/engine.py", "buckets/redis/connection.py"} <= files
    assert len(files) <= MAX_FILES, "\n".join(sorted(files))
