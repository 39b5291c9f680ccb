"""The log, in a process of its own as it is in a server."""

import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from ratelimit_service.errors import DeadlineExceeded, InvalidArgument, ServiceError, Unauthenticated, Unavailable
from ratelimit_service.logs import redact
from ratelimit_service.management.tokens import Caller, Role
from ratelimit_service.transport.grpcio.interceptors import Call, log_calls, log_failures

KEY = "rlk_live_0123456789abcdef_s3cretS3cretS3cret"
TOKEN = "rlt_0123456789ab_s3cretS3cretS3cret"

PROGRAM = f"""
import logging, structlog
from ratelimit_service.logs import set_up_logging
set_up_logging({{level!r}}, {{form!r}})
log = structlog.stdlib.get_logger("ours")
log.debug("quiet")
log.info("made", key="{KEY}", url="postgresql://me:hunter2@host/db")
logging.getLogger("theirs").warning("token %s", "{TOKEN}")
try:
    raise ValueError("{KEY}")
except ValueError:
    log.exception("broke")
"""


def lines(level: str, form: str) -> list[str]:
    """What a process logs that runs PROGRAM."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level, form=form)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == ""
    return ran.stderr.splitlines()


def test_json_is_one_object_a_line() -> None:
    """Each event is one line of JSON with time, level and logger, the libraries' events and tracebacks included."""
    events = [json.loads(line) for line in lines("info", "json")]
    assert [(event["event"], event["level"], event["logger"]) for event in events] == [
        ("made", "info", "ours"),
        ("token rlt_0123456789ab_***", "warning", "theirs"),
        ("broke", "error", "ours"),
    ]
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert "ValueError" in events[2]["exception"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_ever_logged(form: str) -> None:
    """Secrets of keys and tokens and passwords of URLs are cut out, tracebacks included; public parts stay."""
    text = "\n".join(lines("debug", form))
    assert "s3cret" not in text
    assert "hunter2" not in text
    assert "rlk_live_0123456789abcdef_***" in text
    assert "://me:***@host" in text


def test_the_level_is_kept() -> None:
    """What is below the level is not logged."""
    assert not any("quiet" in line for line in lines("info", "text"))
    assert any("quiet" in line for line in lines("debug", "text"))


def test_other_text_is_not_redacted() -> None:
    """Text that only resembles a key or a URL is not changed."""
    text = "key_id=0123456789abcdef plan=rlk at http://host:8080/a@b"
    assert redact(text) == text


async def test_failures_are_logged_once_a_second() -> None:
    """Each kind of failure has at most a line a second, with how many there were; callers' mistakes have none."""
    seconds = 100.0

    async def fail(_call: Call) -> bytes:
        raise error

    handle = log_failures(fail, lambda: seconds)
    down, late = Unavailable("down", reason="POLICY_STORE_UNAVAILABLE"), DeadlineExceeded("late")
    mistake = InvalidArgument.of("cost", "is 7")
    error: ServiceError = down
    with capture_logs() as logged:
        for pause, error in (
            (0, down),
            (0.5, down),
            (0.25, late),
            (0, mistake),
            (0.25, down),
            (0.75, down),
            (0.25, down),
        ):
            seconds += pause
            with pytest.raises(type(error)):
                await handle(Call("/a/B", None))  # type: ignore[arg-type]
    assert [(line["reason"], line["calls"]) for line in logged] == [
        ("POLICY_STORE_UNAVAILABLE", 1),
        ("DEADLINE_TOO_SHORT", 1),
        ("POLICY_STORE_UNAVAILABLE", 2),
        ("POLICY_STORE_UNAVAILABLE", 2),
    ]


async def test_strangers_do_not_fill_the_log() -> None:
    """Of calls without a valid token ten a second are logged, then how many were not; every other call is logged.

    So are calls that ended before their caller was known.
    """
    seconds = 100.0

    async def refuse(_call: Call) -> bytes:
        raise Unauthenticated("no token", reason="TOKEN_MISSING")

    async def succeed(_call: Call) -> bytes:
        return b""

    refused, served = log_calls(refuse, lambda: seconds), log_calls(succeed, lambda: seconds)
    call, known = Call("/a/B", None), Call("/a/B", None)  # type: ignore[arg-type]
    known.caller = Caller("somebody", Role.VIEWER)
    with capture_logs() as logged:
        for number in range(100):
            with pytest.raises(Unauthenticated):
                await refused(call)
            await served(call if number % 2 else known)
        seconds += 1
        with pytest.raises(Unauthenticated):
            await refused(call)
    assert [line["event"] for line in logged].count("call") == 10 + 50 + 10 + 1
    assert [line["calls"] for line in logged if "calls" in line] == [90]
