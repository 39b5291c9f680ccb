"""Made-up bearer tokens: neither Postgres, nor those who decide, nor those who manage notice them."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence

import grpc
import pytest

from attacks.attacked import Target, attacked
from attacks.sizes import ATTACK_SECONDS, FULL
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.management.tokens import Token

CHECK = "/ratelimit.v1.RateLimitService/CheckLimit"
MANAGE = "/ratelimit.v1.KeyAdminService/ManageKey"
CALLS_AT_ONCE = 32
READS_PER_SECOND = 10
TIMEOUT_SECONDS = 5 if FULL else 1
"""Of a call with a made-up token, which waits for seconds after a few of them: the attack ends after the last."""


def of_the_right_form(_number: int) -> str:
    """A new one for each call."""
    return f"Bearer {Token.generate()}"


def of_a_known_id(number: int) -> str:
    """One secret after the other for one id: ids are in logs."""
    return f"Bearer rlt_0123456789ab_{number:032d}"


def of_no_form(number: int) -> str:
    """Longer than any token."""
    return f"Bearer {number}" + "x" * 6_000


FORMS = {form.__name__: form for form in (of_the_right_form, of_a_known_id, of_no_form)}


async def send_tokens(address: str, until: float, method: str, forms: Sequence[str]) -> Counter[str]:
    """Call METHOD with one made-up token of these forms after the other, as fast as the answers come."""
    counts: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(method)

        async def keep_calling(worker: int) -> None:
            number, form = worker, FORMS[forms[worker % len(forms)]]
            while time.monotonic() < until:
                number += CALLS_AT_ONCE
                metadata = (("authorization", form(number)),)
                try:
                    await call(b"", metadata=metadata, timeout=TIMEOUT_SECONDS)
                except grpc.aio.AioRpcError as error:
                    counts[error.code().name] += 1
                else:
                    counts["OK"] += 1

        await asyncio.gather(*(keep_calling(worker) for worker in range(CALLS_AT_ONCE)))
    return counts


@pytest.mark.parametrize("forms", [[form] for form in FORMS] if FULL else [list(FORMS)], ids="+".join)
def test_made_up_tokens_reach_nobody(target: Target, forms: Sequence[str]) -> None:
    """Postgres reads tokens at most 10 times a second for each process, whatever is sent as one."""
    with attacked(target) as report:
        report.attack(send_tokens, CHECK, forms)
    reads = sum(calls for query, calls in report.stores.statements.items() if "admin_tokens" in query)
    processes = 3 if target.transport == "envoy" else 2
    assert reads <= processes * (READS_PER_SECOND * report.seconds + 5) * (1 if FULL else 2), report.row()
    assert report.attackers["UNAUTHENTICATED"] + report.attackers["OK"] + report.attackers["UNAVAILABLE"] > 100


def test_an_administrator_is_served(target: Target) -> None:
    """Beside a flood of made-up tokens, a command of an administrator takes less than a second."""
    took: list[float] = []

    def manage() -> None:
        for _ in range(5):
            time.sleep(0.2)
            began = time.monotonic()
            target.server.manage().ManageKey(
                admin_pb2.ManageKeyRequest(list={}), metadata=target.server.as_admin, timeout=5
            )
            took.append(time.monotonic() - began)

    with attacked(target) as report:
        beside = threading.Thread(target=manage)
        beside.start()
        report.attack(send_tokens, MANAGE, ["of_the_right_form"], seconds=max(ATTACK_SECONDS, 1.5))
        beside.join()
    assert len(took) == 5
    assert max(took) < (1 if FULL else 5), took
