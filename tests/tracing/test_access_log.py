"""The access log."""

from structlog.testing import capture_logs

from ratelimit_service.errors import Code
from ratelimit_service.tracing.access_log import MAX_LINES, AccessLog
from ratelimit_service.tracing.call import SampledCall


def test_lines_are_bounded_and_what_is_left_out_is_counted() -> None:
    """So many a second; the next second begins with how many there were beyond."""
    seconds = 100.0
    log = AccessLog(lambda: seconds)
    call = SampledCall(None, traced=False, logged=True)
    call.attributes, call.error = {"outcome": "denied"}, ""
    with capture_logs() as lines:
        for _ in range(MAX_LINES + 5):
            log.write(call, "/a/B", Code.OK, 0.0012345)
        assert len(lines) == MAX_LINES
        seconds += 1
        log.write(call, "/a/B", Code.OK, 0.1)
    assert (log.written, log.left_out) == (MAX_LINES + 1, 5)
    assert lines[-2] == {"event": "lines of the access log left out", "lines": 5, "log_level": "warning"}
    assert lines[0]["milliseconds"] == 1.234
    assert lines[0]["outcome"] == "denied"
    assert "error" not in lines[0]
