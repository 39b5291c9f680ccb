"""Token budgets that are reserved, and calls at once, through a real Envoy, by the example for them."""

import http.client
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from typing import Any, Final

import pytest
import yaml

from api.envoy.front import FrontEnvoy, Json, Reply
from api.envoy.language_model import LanguageModel
from api.envoy.test_examples import EXAMPLES, configured
from api.envoy.test_llm import run
from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

EXAMPLE: Final = EXAMPLES / "llm_reserved"
MAX_TOKENS: Final = 100
ESTIMATE: Final = 4 * MAX_TOKENS
_names = count()


@pytest.fixture
def gateway(server: Server, model: LanguageModel, start_front: Callable[[Json], FrontEnvoy]) -> "Gateway":
    """The example as it is, but for its ports and the token, after the commands of its README.

    And for the time in which it admits: a call that is reserved too late keeps its slot until its hold ends.
    """
    run(server, "rules", "replace", "--yes", str(EXAMPLE / "rules.yaml"))
    text = (EXAMPLE / "envoy.yaml").read_text()
    assert (text.count("rlt_..."), text.count("timeout: 0.5s")) == (1, 1)
    text = text.replace("rlt_...", server.tokens[Role.GATEWAY]).replace("timeout: 0.5s", "timeout: 10s")
    return Gateway(start_front(configured(text, server, model.port)), server)


class Gateway:
    """The example, with customers on plans like that of the example."""

    def __init__(self, envoy: FrontEnvoy, server: Server) -> None:
        self.envoy = envoy
        self.server = server
        self._check = RateLimitServiceStub(server.channel).CheckLimit

    def customer(self, *, tokens: int = 1_000_000, at_once: int = 100) -> str:
        """A key with so many weighted tokens a day, and so many calls at once."""
        plan = yaml.safe_load((EXAMPLE / "plan.yaml").read_text())
        plan["name"] = f"llm-reserved-{next(_names)}"
        by_name = {limit["name"]: limit for limit in plan["limits"]}
        by_name["tokens"]["quota"]["amount"] = tokens
        by_name["at-once"]["concurrency"]["max"] = at_once
        by_name["calls"]["token_bucket"] = {"capacity": 100_000, "refill_tokens": 1, "refill_period": "3600s"}
        run(self.server, "plans", "create", "-", text=json.dumps(plan))
        return self.server.key(plan["name"])[1]

    def connection(self) -> http.client.HTTPConnection:
        """One to Envoy."""
        return http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=30)

    def ask(
        self,
        key: str,
        *,
        stream: bool = True,
        fields: dict[str, object] | None = None,
        **answer: Any,  # noqa: ANN401
    ) -> Reply:
        """Ask the model for an answer, and read it to its end. FIELDS are those of the request beside its model."""
        connection = self.connection()
        try:
            self.begin(connection, key, stream=stream, fields=fields, **answer)
            response = connection.getresponse()
            try:
                data = response.read()
            except http.client.IncompleteRead as error:
                data = error.partial
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        finally:
            connection.close()

    def begin(
        self,
        connection: http.client.HTTPConnection,
        key: str,
        *,
        stream: bool = True,
        fields: dict[str, object] | None = None,
        **answer: Any,  # noqa: ANN401
    ) -> None:
        """Ask, and do not wait for the answer."""
        own = {"max_tokens": MAX_TOKENS} if fields is None else fields
        body = {"model": "small-1", "stream": stream, "answer": answer, **own}
        headers = {"x-api-key": key, "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)

    def used(self, key: str) -> dict[str, int]:
        """What is used of each limit, by a peek."""
        limits = self._check(CheckLimitRequest(api_key=key, resource="small-1", cost=0)).limits
        return {limit.name: limit.limit - limit.remaining for limit in limits}

    def until_free(self, key: str) -> None:
        """Wait until no call is under way: each is settled when it has ended."""
        deadline = time.monotonic() + 10
        while self.used(key)["at-once"]:
            assert time.monotonic() < deadline, self.used(key)
            time.sleep(0.02)

    def until_used(self, key: str, tokens: int) -> None:
        """Wait until so many tokens are used: an answer is settled when it has ended."""
        deadline = time.monotonic() + 20
        while self.used(key)["tokens"] != tokens:
            assert time.monotonic() < deadline, (self.used(key), tokens)
            time.sleep(0.02)


def test_an_answer_is_settled(gateway: Gateway, model: LanguageModel) -> None:
    """While it is under way its estimate is used, and then what upstream reported, be it more; a call is a call."""
    key = gateway.customer()
    connection = gateway.connection()
    gateway.begin(connection, key, prompt=10, completion=20, chunks=500)
    gateway.until_used(key, ESTIMATE)
    connection.getresponse().read()
    connection.close()
    gateway.until_used(key, 90)
    assert gateway.ask(key, stream=False, prompt=1_000, completion=99).status == 200
    gateway.until_used(key, model.reported)
    assert (model.reported, gateway.used(key)["calls"]) == (90 + 1_396, 2)


def test_the_estimate(gateway: Gateway) -> None:
    """Whatever a customer sends there is one within bounds, which a stream that is cut off costs in the end."""
    key, used = gateway.customer(tokens=10_000_000, at_once=1), 0
    for fields, estimate in (
        ({"max_tokens": 1}, 4),
        ({"max_tokens": 32_000}, 128_000),
        ({"max_tokens": 1e12}, 128_000),
        ({"max_tokens": 0}, 16_384),
        ({"max_tokens": -5}, 16_384),
        ({"max_tokens": "many"}, 16_384),
        ({}, 16_384),
        ({"max_completion_tokens": 30_000}, 120_000),
        ({"max_tokens": 1, "max_completion_tokens": 30_000}, 120_004),
    ):
        gateway.until_free(key)
        assert gateway.ask(key, prompt=1, completion=1, cut=True, fields=fields).status == 200
        used += estimate
        gateway.until_used(key, used)
    gateway.until_free(key)
    assert gateway.used(key)["tokens"] == used


def test_what_asks_no_model(gateway: Gateway) -> None:
    """A list of models costs nothing, nor does an error; embeddings have no tokens of an answer."""
    key = gateway.customer(at_once=1)
    connection = gateway.connection()
    connection.request("GET", "/v1/models", headers={"x-api-key": key})
    assert connection.getresponse().status == 200
    connection.close()
    gateway.until_free(key)
    assert gateway.ask(key, stream=False, prompt=7).status == 200
    gateway.until_free(key)
    assert gateway.ask(key, stream=False, status=500).status == 500
    gateway.until_free(key)
    assert gateway.used(key) == {"tokens": 7, "calls": 3, "at-once": 0}


def test_a_client_that_leaves_before_the_answer(gateway: Gateway, model: LanguageModel) -> None:
    """Its call costs its estimate, and its slot is free at once, not when its hold ends."""
    key = gateway.customer(at_once=1)
    connection = gateway.connection()
    gateway.begin(connection, key, stream=False, prompt=1, completion=1, delay=4)
    gateway.until_used(key, ESTIMATE)
    connection.close()
    gateway.until_free(key)
    assert gateway.used(key)["tokens"] == ESTIMATE
    assert model.in_flight == 1
    while model.in_flight:  # it has not ended in the next test either, which counts those at once
        time.sleep(0.05)


def test_keys_that_no_metadata_takes(gateway: Gateway, model: LanguageModel) -> None:
    """A header of any length is no way around."""
    for key in ("x" * 8_192, "rlk_live_" + "x" * 20_000, "rlk_live_made_up", "rlk_live_x,rlk_live_y"):
        assert gateway.ask(key, prompt=1, completion=1).status in {401, 429, 431}
    assert not model.headers


def test_calls_at_once(gateway: Gateway, model: LanguageModel) -> None:
    """A third of two is denied without a time to try again, and passes when one has ended, or its client has left."""
    key = gateway.customer(at_once=2)
    for leaves in (False, True):
        with ExitStack() as open_calls:
            connections = [open_calls.enter_context(closing(gateway.connection())) for _ in range(2)]
            for connection in connections:
                gateway.begin(connection, key, prompt=1, completion=1, chunks=500)
            deadline = time.monotonic() + 20
            while model.in_flight < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            denied = gateway.ask(key, prompt=1, completion=1)
            assert (denied.status, denied.json["violated-policies"]) == (429, ["at-once"])
            assert "retry-after" not in denied.headers
            if not leaves:
                for connection in connections:
                    connection.getresponse().read()
        while gateway.ask(key, prompt=1, completion=1).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        gateway.until_free(key)  # one that passed says that one slot is free, and the next two need both
    assert model.most_in_flight == 2


def test_a_budget_is_not_overdrawn(gateway: Gateway, model: LanguageModel) -> None:
    """Many at a time, each at most at its estimate: what is under way never goes over it, and all of it is used."""
    budget = 20_000
    key = gateway.customer(tokens=budget)
    rng = random.Random(13)

    def ask(completion: int) -> int:
        return gateway.ask(key, prompt=0, completion=completion, chunks=5).status

    sizes = [rng.randint(20, MAX_TOKENS) for _ in range(150)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, sizes))
    gateway.until_used(key, model.reported)
    assert set(statuses) == {200, 429}
    assert budget - 8 * ESTIMATE <= model.reported <= budget


def test_the_plan_as_it_is(server: Server) -> None:
    """The service takes the file."""
    plan = yaml.safe_load((EXAMPLE / "plan.yaml").read_text()) | {"name": f"llm-reserved-{next(_names)}"}
    assert "at-once" in run(server, "plans", "create", "-", text=json.dumps(plan))
