"""Token budgets of a language model through a real Envoy, by the example under deploy/envoy/llm."""

import http.client
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Final

import pytest
import yaml

from api.envoy.front import FrontEnvoy, Json, Reply
from api.envoy.language_model import LanguageModel
from api.envoy.test_examples import EXAMPLES, configured
from fixtures.served import PROGRAM, Server
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.management.tokens import Role

FULL: Final = "RATELIMIT_LLM" in os.environ
ANSWERS: Final = 2_000 if FULL else 120
TOGETHER: Final = 32 if FULL else 8
EXAMPLE: Final = EXAMPLES / "llm"
_names = count()


@pytest.fixture
def envoy(server: Server, model: LanguageModel, start_front: Callable[[Json], FrontEnvoy]) -> FrontEnvoy:
    """The example as it is, but for its ports and the token, after the commands of its README."""
    run(server, "rules", "replace", "--yes", str(EXAMPLE / "rules.yaml"))
    text = (EXAMPLE / "envoy.yaml").read_text()
    assert text.count("rlt_...") == 1
    return start_front(configured(text.replace("rlt_...", server.tokens[Role.GATEWAY]), server, model.port))


@pytest.fixture
def gateway(envoy: FrontEnvoy, server: Server) -> "Gateway":
    """Customers of the example."""
    return Gateway(envoy, server)


def run(server: Server, *arguments: str, text: str = "") -> str:
    """Run a command of an administrator."""
    environment = os.environ | {"RATELIMIT_SERVER": server.address, "RATELIMIT_TOKEN": server.tokens[Role.ADMIN]}
    done = subprocess.run(
        [PROGRAM, *arguments], env=environment, input=text, capture_output=True, check=True, text=True
    )
    return done.stdout


class Gateway:
    """The example with a customer on a plan like that of the example."""

    def __init__(self, envoy: FrontEnvoy, server: Server) -> None:
        self.envoy = envoy
        self.server = server
        self._check = RateLimitServiceStub(server.channel).CheckLimit

    def customer(self, tokens: int, large: int = 1_000_000, calls: int = 100_000) -> str:
        """A key with so many weighted tokens a day for all models, and for the large one, and so many calls."""
        plan = yaml.safe_load((EXAMPLE / "plan.yaml").read_text())
        plan["name"] = f"llm-{next(_names)}"
        by_name = {limit["name"]: limit for limit in plan["limits"]}
        by_name["tokens"]["quota"]["amount"] = tokens
        by_name["large-model"]["quota"]["amount"] = large
        by_name["calls"]["token_bucket"] = {"capacity": calls, "refill_tokens": 1, "refill_period": "3600s"}
        run(self.server, "plans", "create", "-", text=json.dumps(plan))
        self.plan = plan
        return self.server.key(plan["name"])[1]

    def ask(self, key: str, *, model: str = "small-1", stream: bool = True, **answer: Any) -> Reply:  # noqa: ANN401
        """Ask the model for an answer."""
        body = json.dumps({"model": model, "stream": stream, "answer": answer})
        return self.post(body, x_api_key=key, content_type="application/json", accept_encoding="gzip")

    def post(self, body: str, **headers: str) -> Reply:
        """Send a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.port, timeout=30)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", "/v1/chat/completions", body, named)
            response = connection.getresponse()
            try:
                data = response.read()
            except http.client.IncompleteRead as error:
                data = error.partial
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        finally:
            connection.close()

    def used(self, key: str, resource: str = "small-1") -> dict[str, int]:
        """What is used of each limit."""
        response: CheckLimitResponse = self._check(CheckLimitRequest(api_key=key, resource=resource, cost=0))
        return {limit.name: limit.limit - limit.remaining for limit in response.limits}

    def until_used(self, key: str, tokens: int) -> None:
        """Wait until so many tokens were charged: a charge is made when an answer has ended."""
        deadline = time.monotonic() + 20
        while self.used(key)["tokens"] != tokens:
            assert time.monotonic() < deadline, (self.used(key), tokens)
            time.sleep(0.02)


def test_what_upstream_reports_is_charged(gateway: Gateway, model: LanguageModel) -> None:
    """Streamed and not, each answer costs what its usage says; the upstream sees no key and is not asked for gzip."""
    key = gateway.customer(1_000_000)
    for stream, prompt, completion in ((True, 10, 20), (False, 30, 5), (True, 0, 1), (False, 7, 0)):
        reply = gateway.ask(key, stream=stream, prompt=prompt, completion=completion)
        assert (reply.status, b"word" in reply.body) == (200, True)
    gateway.until_used(key, model.reported)
    assert model.reported == 10 + 80 + 30 + 20 + 4 + 7
    assert gateway.used(key)["calls"] == 4
    assert not any({"x-api-key", "accept-encoding"} & headers.keys() for headers in model.headers)


def test_a_budget_ends_is_raised_and_goes_on(gateway: Gateway, model: LanguageModel) -> None:
    """Many answers at a time: it ends within those in flight, then 429 with Retry-After until it is raised."""
    budget = 1_000_000 if FULL else 60_000
    key = gateway.customer(budget)
    rng = random.Random(13)
    sizes = [rng.randint(100, 2_000) for _ in range(ANSWERS)]

    def ask(size: int) -> int:
        return gateway.ask(key, prompt=size % 97, completion=size, chunks=5).status

    with ThreadPoolExecutor(TOGETHER) as pool:
        statuses = list(pool.map(ask, sizes))
    gateway.until_used(key, model.reported)
    most = 4 * 2_000 + 97
    print(  # noqa: T201  what the docs state
        f"\n{gateway.server.settings.transport}: {statuses.count(200)} of {ANSWERS} answers, {TOGETHER} at a time, "
        f"{model.most_in_flight} at once: {model.reported} of {budget} tokens"
    )
    assert set(statuses) == {200, 429}
    # Each client may have one call in flight, and the charge of the one before on its way.
    assert budget <= model.reported <= budget + 2 * TOGETHER * most
    denied = gateway.ask(key, prompt=1, completion=1)
    assert denied.status == 429
    assert 0 < int(denied.headers["retry-after"]) <= 86_400
    assert "tokens" in denied.json["violated-policies"]
    gateway.plan["limits"][1]["quota"]["amount"] = 2 * budget
    run(gateway.server, "plans", "update", "--yes", "-", text=json.dumps(gateway.plan))
    deadline = time.monotonic() + 10
    while gateway.ask(key, prompt=1, completion=1).status == 429:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_model_has_a_budget_of_its_own(gateway: Gateway, model: LanguageModel) -> None:
    """The large model's ends, others go on; no content type hides which one is asked for."""
    key = gateway.customer(1_000_000, large=100)
    assert gateway.ask(key, model="large-2", prompt=0, completion=50).status == 200
    gateway.until_used(key, 200)
    assert gateway.ask(key, model="large-2", prompt=1, completion=1).status == 429
    body = json.dumps({"model": "large-2", "answer": {"prompt": 1, "completion": 1}})
    for content_type in ("text/plain", "application/octet-stream", ""):
        assert gateway.post(body, x_api_key=key, content_type=content_type).status == 429
    assert gateway.ask(key, model="small-1", prompt=1, completion=1).status == 200
    gateway.until_used(key, 205)
    assert model.reported == 205


def test_calls_are_limited_beside_tokens(gateway: Gateway) -> None:
    """Three calls are three, whatever they cost; the fourth is denied at its peek."""
    key = gateway.customer(1_000_000, calls=3)
    for number in range(1, 4):
        assert gateway.ask(key, prompt=5, completion=5).status == 200
        gateway.until_used(key, 25 * number)
    denied = gateway.ask(key, prompt=5, completion=5)
    assert (denied.status, denied.json["violated-policies"]) == (429, ["calls"])


def test_answers_of_unknown_cost(gateway: Gateway) -> None:
    """Without a usage, cut off by upstream or left by the client, each is one token and one call; an error is none."""
    key = gateway.customer(1_000_000)
    assert gateway.ask(key, stream=True).status == 200
    assert gateway.ask(key, stream=False).status == 200
    assert gateway.ask(key, stream=False, status=500).status == 500
    assert gateway.ask(key, stream=True, prompt=5, completion=5, cut=True).status == 200
    assert gateway.ask(key, stream=True, prompt=1, completion=1).status == 200
    gateway.until_used(key, 8)
    for chunks, delay in ((100_000, 0.0), (1, 1.0)):  # the client leaves while it reads, and before there is anything
        answer = {"prompt": 5, "completion": 5, "chunks": chunks, "delay": delay}
        body = json.dumps({"model": "small-1", "stream": True, "answer": answer})
        connection = http.client.HTTPConnection("127.0.0.1", gateway.envoy.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", body, {"x-api-key": key, "content-type": "application/json"})
        if not delay:
            connection.getresponse().read(100)
        else:
            time.sleep(delay / 2)
        connection.close()
    gateway.until_used(key, 10)
    assert gateway.used(key)["calls"] == 6


def test_an_answer_without_tokens_of_its_own(gateway: Gateway) -> None:
    """As embeddings are: the question is charged."""
    key = gateway.customer(1_000_000)
    assert gateway.ask(key, stream=False, prompt=7).status == 200
    gateway.until_used(key, 7)


@pytest.mark.parametrize("body", ['{"model": "large-2", "x": NaN}', '{"model": "large-2"', "model=large-2"])
def test_a_body_that_hides_the_model(gateway: Gateway, model: LanguageModel, body: str) -> None:
    """What Envoy cannot read is refused, whatever upstream would make of it."""
    key = gateway.customer(1_000_000)
    assert gateway.post(body, x_api_key=key, content_type="application/json").status == 403
    assert not model.headers


def test_a_model_that_is_named_twice(gateway: Gateway, model: LanguageModel) -> None:
    """The last one counts, as upstream has it."""
    key = gateway.customer(1_000_000, large=100)
    answer = '"answer": {"prompt": 200, "completion": 0}'
    body = '{"model": "small-1", "model": "large-2", ' + answer + "}"
    assert gateway.post(body, x_api_key=key, content_type="application/json").status == 200
    gateway.until_used(key, 200)
    assert gateway.post(body, x_api_key=key, content_type="application/json").status == 429
    assert model.reported == 200


def test_nothing_passes_without_a_key(gateway: Gateway, model: LanguageModel) -> None:
    """Whatever is in place of one."""
    requests = len(model.headers)
    body = json.dumps({"model": "small-1", "answer": {"prompt": 1, "completion": 1}})
    assert gateway.post(body, content_type="application/json").status == 401
    assert gateway.post(body, content_type="application/json", x_api_key="").status == 401
    assert gateway.post(body, content_type="application/json", x_api_key="rlk_live_made_up").status == 429
    for long in ("x" * 8_192, "rlk_live_" + "x" * 20_000):  # of which Envoy takes no metadata
        assert gateway.post(body, content_type="application/json", x_api_key=long).status == 429
    assert len(model.headers) == requests


def test_a_large_answer_in_one_piece(gateway: Gateway) -> None:
    """Up to the bound of the listener it is held, read and passed on."""
    key = gateway.customer(1_000_000)
    body = json.dumps({"model": "small-1", "padding": "x" * 3_000_000, "answer": {"prompt": 9, "completion": 1}})
    assert gateway.post(body, x_api_key=key, content_type="application/json").status == 200
    gateway.until_used(key, 13)


def test_the_plan_as_it_is(server: Server) -> None:
    """The service takes the file."""
    plan = yaml.safe_load((EXAMPLE / "plan.yaml").read_text()) | {"name": f"llm-{next(_names)}"}
    assert "overdraft unbounded" in run(server, "plans", "create", "-", text=json.dumps(plan))
