"""Delivery: signed, at least once, with one id, again after failures, and given up after a day."""

import asyncio
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

from alerts.conftest import SECRET, Alerting
from alerts.receiver import receiving
from alerts.test_webhook import sender
from fixtures.control_plane import SECOND
from ratelimit_service.alerts.alert import Alert, Delivery, DeliveryEvent, DeliveryState, Rule
from ratelimit_service.alerts.messages import alert_message

DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"


async def newest(alerting: Alerting) -> Delivery:
    """The last test message."""
    return (await alerting.plane.alerts.tests())[0]


async def test_a_message_can_be_verified_as_the_docs_say(alerting: Alerting) -> None:
    """The snippet of docs/alerts.md accepts what arrives, and refuses another body, secret, or an old message."""
    snippet = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert snippet is not None
    names: dict[str, object] = {}
    exec(snippet[1], names)
    verify = names["verify"]
    assert callable(verify)
    await alerting.plane.alerts.test("ada")
    async with receiving() as receiver:
        await alerting.dispatcher(sender(receiver)).dispatch(await alerting.lead())
    (request,) = receiver.received
    content = json.loads(request.body)
    assert (content["event"], content["sent_by"]) == ("test", "ada")
    assert content["id"] == request.headers["ratelimit-webhook-id"]
    now = alerting.plane.clock.us // SECOND
    assert verify(SECRET, request.headers, request.body, now)
    assert not verify(b"another secret", request.headers, request.body, now)
    assert not verify(SECRET, request.headers, request.body + b" ", now)
    assert not verify(SECRET, request.headers, request.body, now + 301)


async def test_a_message_is_sent_again_until_it_is_accepted(alerting: Alerting) -> None:
    """After a 500 and after a refused connection, with pauses that double, the same body and the same id."""
    await alerting.plane.alerts.test("ada")
    term = await alerting.lead()
    clock = alerting.plane.clock
    async with receiving(statuses=[500, 503]) as receiver:
        dispatcher = alerting.dispatcher(sender(receiver))
        assert [await dispatcher.dispatch(term), await dispatcher.dispatch(term)] == [1, 0]
        first = await newest(alerting)
        assert (first.state, first.attempts, first.status) == (DeliveryState.PENDING, 1, 500)
        assert first.next_us == clock.us + 5 * SECOND
        clock.us += 5 * SECOND
        await dispatcher.dispatch(term)
    clock.us += 10 * SECOND
    await dispatcher.dispatch(term)
    refused = await newest(alerting)
    assert (refused.attempts, refused.status) == (3, 0)
    assert refused.error.startswith("cannot be reached")
    clock.us += 20 * SECOND
    async with receiving() as successor:
        await alerting.dispatcher(sender(successor)).dispatch(term)
    requests = [*receiver.received, *successor.received]
    assert len({request.body for request in requests}) == 1
    assert {request.headers["ratelimit-webhook-id"] for request in requests} == {refused.delivery_id}
    done = await newest(alerting)
    assert (done.state, done.attempts, done.error, done.next_us) == (DeliveryState.DELIVERED, 4, "", None)
    assert alerting.observer.outcomes == {"failed": 3, "delivered": 1}


async def test_a_message_is_given_up_after_a_day(alerting: Alerting) -> None:
    """It stays visible as such, and is not sent any more."""
    await alerting.plane.alerts.test("ada")
    term = await alerting.lead()
    async with receiving(statuses=[500] * 100) as receiver:
        dispatcher = alerting.dispatcher(sender(receiver))
        for _ in range(60):
            await dispatcher.dispatch(term)
            alerting.plane.clock.us += 3_600 * SECOND
    given_up = await newest(alerting)
    assert (given_up.state, given_up.next_us) == (DeliveryState.GIVEN_UP, None)
    assert 20 < len(receiver.received) == given_up.attempts < 40
    assert alerting.observer.outcomes["given_up"] == 1


async def test_tests_do_not_delay_alerts(alerting: Alerting) -> None:
    """However many tests wait, messages about alerts go first."""
    for _ in range(8):
        await alerting.plane.alerts.test("ada")
    clock = alerting.plane.clock
    clock.us += SECOND
    alert = Alert(0, Rule.DEGRADED, "store", "", 0, "text", {}, clock.us, clock.us)
    term = await alerting.lead()
    async with alerting.transactions.leading(term) as alerts:
        number = await alerts.add(alert)
        await alerts.send(alert_message(replace(alert, alert_id=number), DeliveryEvent.FIRING, clock.us))
    async with receiving() as receiver:
        await alerting.dispatcher(sender(receiver)).dispatch(term)
    events = [json.loads(request.body)["event"] for request in receiver.received]
    assert sorted(events) == ["firing", "test", "test", "test"]


async def test_a_message_of_an_alert_has_what_it_reports(alerting: Alerting) -> None:
    """Its state, target and numbers, and the times in RFC 3339."""
    clock = alerting.plane.clock
    alert = Alert(7, Rule.QUOTA, "subjects/acme", "daily", 90, "text", {"used": 9}, clock.us, clock.us)
    content = json.loads(alert_message(alert, DeliveryEvent.FIRING, clock.us).body)
    assert content["event"] == "firing"
    assert content["alert"] | {"start_time": ""} == {
        "alert_id": "7",
        "rule": "quota",
        "state": "firing",
        "target": "subjects/acme",
        "limit": "daily",
        "level": 90,
        "summary": "text",
        "detail": {"used": 9},
        "start_time": "",
        "end_time": None,
    }


async def test_a_message_whose_sender_was_killed_is_sent_again(alerting: Alerting, database_url: str) -> None:
    """A process that is killed after the webhook accepted, before it wrote that down: the same id arrives again."""
    await alerting.plane.alerts.test("ada")
    async with receiving() as receiver:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "alerts.killed_sender", database_url, str(receiver.port), SECRET.decode(),
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL
        assert len(receiver.received) == 1
        assert (await newest(alerting)).attempts == 0
        lease = alerting.lease
        async with alerting.plane.database.writing() as connection:
            await connection.exec_driver_sql("UPDATE leases SET expire_time = to_timestamp(0)")
        term = await lease.acquire()
        assert term is not None
        await alerting.dispatcher(sender(receiver)).dispatch(term)
    first, second = (request.headers["ratelimit-webhook-id"] for request in receiver.received)
    assert first == second
    assert (await newest(alerting)).state is DeliveryState.DELIVERED
    assert os.getpid() != process.pid
