"""Decisions on the command line, from end to end."""

import json
import time
from collections.abc import Callable

import grpc
import pytest

from fixtures.dev_server import DevServer
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2 import CheckLimitRequest, CheckLimitResponse
from ratelimit_service._gen.ratelimit.v1.rate_limit_service_pb2_grpc import RateLimitServiceStub
from ratelimit_service.cli.check import degraded, print_decision


@pytest.fixture
def new_key(dev_server: DevServer) -> Callable[[str], str]:
    """Create a key for this subject, on plan free if none is named, and return its secret."""

    def make(subject: str, plan: str = "free") -> str:
        made = dev_server.run("keys", "create", "--plan", plan, "--subject", subject, "--json")
        return str(json.loads(made.stdout)["secret"])

    return make


def test_allowed_exits_with_0(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """An allowed call is reported with what is left of each limit, and the exit code is 0."""
    done = dev_server.run("check", new_key("allowed"), "--resource", "orders.create", "--cost", "3")
    assert done.returncode == 0
    assert done.stdout.startswith("allowed: WITHIN_LIMIT; limit burst, 17 left; key ")
    assert "of allowed on plan free" in done.stdout
    assert "daily  9,997  10,000" in done.stdout


def test_denied_exits_with_1(dev_server: DevServer, new_key: Callable[..., str]) -> None:
    """A denied call is reported with the reason and when to retry, and the exit code is 1."""
    plan = "{name: slow, limits: [{name: burst, token_bucket: {capacity: 20, refill_tokens: 1, refill_period: 3600s}}]}"
    assert dev_server.run("plans", "create", "-", stdin=plan).returncode == 0
    key = new_key("denied", "slow")
    never = dev_server.run("check", key, "--cost", "21")
    assert (never.returncode, never.stdout.splitlines()[0].split(";")[0]) == (1, "denied: COST_EXCEEDS_CAPACITY")
    assert dev_server.run("check", key, "--cost", "20").returncode == 0
    over = dev_server.run("check", key, "--cost", "20")
    assert over.returncode == 1
    assert over.stdout.startswith("denied: OVER_LIMIT; limit burst, ")
    assert "; retry after " in over.stdout


def test_a_reservation_is_extended_and_settled(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """What was reserved stays charged until its actual cost takes its place."""
    plan = (
        "{name: held, limits: [{name: tokens, overdraft: {tokens: 5}, "
        "token_bucket: {capacity: 100, refill_tokens: 1, refill_period: 2678400s}}, "
        "{name: at-once, concurrency: {max: 1, default_hold: 60s}}]}"
    )
    created = dev_server.run("plans", "create", "-", stdin=plan)
    assert "at-once: 1 calls at once, each held for 1m unless it is settled" in created.stdout
    key = new_key("held", "held")
    made = dev_server.run("check", key, "--cost", "40", "--hold", "30s", "--json")
    reservation = json.loads(made.stdout)["reservation_id"]
    assert dev_server.run("check", key, "--cost", "1").returncode == 1  # one at once
    extended = dev_server.run("extend", reservation, "--hold", "1m30s")
    assert (extended.returncode, extended.stdout) == (0, "held for 1m30s from now on\n")
    settled = dev_server.run("settle", reservation, "--cost", "10")
    assert (settled.returncode, settled.stdout.splitlines()[0]) == (0, "settled; the next call may be allowed")
    again = dev_server.run("check", key, "--cost", "50", "--hold", "30s")
    assert "limit at-once, 0 left" in again.stdout
    reservation = again.stdout.splitlines()[-1].removeprefix("reservation ")
    settled = dev_server.run("settle", reservation, "--cost", "100")
    assert settled.returncode == 1
    assert settled.stdout.startswith(
        "settled; a limit is used up; 5 tokens were above an overdraft and are not charged"
    )
    unknown = dev_server.run("settle", "x", "--cost", "1")
    assert unknown.returncode not in {0, 1}
    assert "there is no open reservation of this id" in unknown.stderr
    invalid = dev_server.run("check", key, "--hold", "soon")
    assert (invalid.returncode, invalid.stderr.partition(";")[0]) == (2, "--hold: 'soon' is not a duration")


def test_json_is_proto3_json(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """With --json the output is the message, zeros included, and nothing else."""
    done = dev_server.run("check", new_key("json"), "--cost", "0", "--json")
    decision = json.loads(done.stdout)
    assert (decision["allowed"], decision["reason"], decision["remaining"]) == (True, "WITHIN_LIMIT", "20")
    assert [limit["name"] for limit in decision["limits"]] == ["burst", "daily"]
    assert decision["limits"][0]["would_deny"] is False


def test_the_key_may_be_given_in_other_ways(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """A key can be kept off the command line: in a variable, or on standard input; a missing one is reported."""
    key = new_key("ways")
    assert dev_server.run("check", RATELIMIT_API_KEY=key).returncode == 0
    assert dev_server.run("check", "-", stdin=f"{key}\n").returncode == 0
    missing = dev_server.run("check")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("no key: give it as KEY")


def test_a_repeated_request_is_charged_once(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """The same call with the same --request-id gets the first response again."""
    key = new_key("repeated")
    responses = [dev_server.run("check", key, "--cost", "5", "--request-id", "r1", "--json").stdout for _ in range(2)]
    assert responses[0] == responses[1]
    assert json.loads(responses[0])["remaining"] == "15"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", ""], "api_key: is empty"),
        (["check", "KEY", "--resource", "x" * 257], "resource: has 257 bytes"),
        (["check", "KEY", "--request-id", "x" * 129], "request_id: "),
        (["check", "KEY", "--cost", "9007199255"], "less than or equal to 9007199254"),
        (["check", "KEY", "--cost", "-1"], "greater than or equal to 0"),
    ],
)
def test_bad_input_names_the_field(dev_server: DevServer, arguments: list[str], message: str) -> None:
    """Invalid input exits with 2, names the field, and prints nothing on standard output."""
    key = dev_server.state["api_key"]
    done = dev_server.run(*(key if argument == "KEY" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert key not in done.stderr


def test_a_key_id_needs_a_gateway(dev_server: DevServer) -> None:
    """A key_id in place of the secret is refused to callers without the role gateway, with exit code 3."""
    key_id = dev_server.state["api_key"].split("_")[2]
    refused = dev_server.run("check", key_id)
    assert refused.returncode == 3
    assert "PERMISSION_DENIED ROLE_INSUFFICIENT" in refused.stderr
    made = dev_server.run("admin-tokens", "create", "gw", "--role", "gateway", "--json")
    allowed = dev_server.run("check", key_id, "--cost", "0", "--token", json.loads(made.stdout)["token"])
    assert allowed.returncode == 0, allowed.stderr


def test_no_server_exits_with_4(dev_server: DevServer) -> None:
    """If no server responds, two lines report the address and what to do."""
    done = dev_server.run("check", dev_server.state["api_key"], "--server", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (4, "")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("cannot reach a server at 127.0.0.1:1: ")
    assert lines[1].startswith("start one with `ratelimit-service dev`")


def test_explain_names_levels(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """An explanation reports which level set each limit and which do not apply, and charges nothing."""
    key = new_key("explained")
    override = ["--limit", "burst", "--capacity", "7", "--refill-tokens", "1", "--subject", "explained"]
    assert dev_server.run("overrides", "set", *override, "--yes").returncode == 0
    time.sleep(1.2)
    done = dev_server.run("explain", key, "--resource", "orders.create")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("would be allowed: WITHIN_LIMIT; limit burst, 6 left")
    assert "burst: 7 tokens, 1 more every 1s" in done.stdout
    assert "overridden by subject" in done.stdout
    again = json.loads(dev_server.run("explain", key, "--json").stdout)
    assert again["decision"]["remaining"] == "6"


def test_explain_names_the_cause(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """The limits of a suspended key do not apply because of that, and a mistyped key is called one."""
    key = new_key("cause")
    assert dev_server.run("keys", "suspend", key.split("_")[2]).returncode == 0
    time.sleep(1.2)
    shown = dev_server.run("explain", key)
    assert shown.stdout.startswith("would be denied: KEY_SUSPENDED")
    assert shown.stdout.count("no: KEY_SUSPENDED") == 2
    for command in ("check", "explain"):
        mistyped = dev_server.run(command, key[:-1])
        assert "denied: KEY_UNKNOWN" in mistyped.stdout
        assert mistyped.stderr == "it is no API key, but mistyped or cut off; nor a key_id, of 16 letters and digits\n"


@pytest.mark.parametrize(
    ("decision", "cause"),
    [
        (
            {"allowed": True, "reason": "WITHIN_LIMIT", "source": "UNENFORCED", "key_id": "k"},
            "; enforcement is off, so",
        ),
        ({"allowed": True, "reason": "DEGRADED_ALLOWED", "source": "DEGRADED", "key_id": "k"}, "store was unavailable"),
        ({"reason": "DEGRADED_DENIED", "source": "DEGRADED"}, "; the key could not be looked up in time"),
        (
            {"reason": "DEGRADED_DENIED", "source": "DEGRADED", "key_id": "k"},
            "unavailable, or a row of the key in Postgres",
        ),
    ],
)
def test_a_decision_without_the_store_has_its_cause(
    decision: dict[str, object], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bucket store is named as the cause only where nothing else can be."""
    response = CheckLimitResponse(**decision)
    print_decision(response, degraded(response))
    assert cause in capsys.readouterr().out


def test_a_burst_gets_exactly_the_bucket(dev_server: DevServer, new_key: Callable[[str], str]) -> None:
    """Of 25 calls at once on plan free exactly 20 are allowed, and from then on one about every 100 ms."""
    request = CheckLimitRequest(api_key=new_key("burst"), resource="orders.create")
    with grpc.insecure_channel(dev_server.listen) as channel:
        stub = RateLimitServiceStub(channel)
        stub.CheckLimit(CheckLimitRequest(api_key=request.api_key, cost=0), timeout=5)
        calls = [stub.CheckLimit.future(request, timeout=5) for _ in range(25)]
        began = time.monotonic()
        decisions = [call.result() for call in calls]
        took = time.monotonic() - began
        allowed = sum(decision.allowed for decision in decisions)
        assert 20 <= allowed <= 20 + int(took * 10)
        assert {decision.reason for decision in decisions if not decision.allowed} <= {CheckLimitResponse.OVER_LIMIT}

        times: list[float] = []
        while len(times) < 6:
            decision = stub.CheckLimit(request, timeout=5)
            if decision.allowed:
                times.append(time.monotonic())
            else:
                assert decision.retry_after.ToMilliseconds() <= 100
                time.sleep(decision.retry_after.ToMicroseconds() / 1e6)
    assert (times[-1] - times[1]) / 4 == pytest.approx(0.1, abs=0.03)
