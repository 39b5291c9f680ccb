"""How the Python clients handle a call that the server resets."""

from collections.abc import Iterator

import grpc
import pytest
from h2.errors import ErrorCodes
from ratelimit_client import AsyncRateLimitClient, Failures, RateLimitClient, RateLimitError, Reason

from clients.reset_server import ResetServer


@pytest.fixture
def resetting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that resets every call with the code of the test."""
    server = ResetServer(request.param)
    yield server.target
    server.close()


@pytest.mark.parametrize("resetting", [ErrorCodes.ENHANCE_YOUR_CALM], indirect=True)
async def test_enhance_your_calm_is_raised(resetting: str) -> None:
    """ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED, as too large a message is, and so never fails open."""
    with RateLimitClient(resetting, deadline=10) as client:
        with pytest.raises(RateLimitError) as caught:
            client.check("rlk_test_a")
        assert (caught.value.code, client.failures) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Failures())
    async with AsyncRateLimitClient(resetting, deadline=10) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.check("rlk_test_a")
        assert (caught.value.code, client.failures) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Failures())


@pytest.mark.parametrize("resetting", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL], indirect=True)
async def test_any_other_reset_is_a_failure(resetting: str) -> None:
    """A call that the server resets with another code, or cancels, fails open."""
    with RateLimitClient(resetting, deadline=10) as client:
        assert client.check("rlk_test_a").reason is Reason.DEGRADED_ALLOWED
    async with AsyncRateLimitClient(resetting, deadline=10) as client:
        assert (await client.check("rlk_test_a")).reason is Reason.DEGRADED_ALLOWED
