"""What the Python clients make of a call that the server's end of the connection resets."""

from collections.abc import Iterator

import grpc
import pytest
from h2.errors import ErrorCodes
from ratelimit_client import AsyncRateLimitClient, RateLimitClient, Reason, SetupError

from clients.resetting_server import ResettingServer


@pytest.fixture
def resetting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that resets every call with the code that the test names."""
    server = ResettingServer(request.param)
    yield server.target
    server.close()


@pytest.mark.parametrize("resetting", [ErrorCodes.ENHANCE_YOUR_CALM], indirect=True)
async def test_to_be_told_to_calm_down_is_raised(resetting: str) -> None:
    """ENHANCE_YOUR_CALM is RESOURCE_EXHAUSTED, as too large a message is, and so never fails open."""
    with RateLimitClient(resetting, deadline=10) as client:
        with pytest.raises(SetupError) as caught:
            client.check("rlk_test_a")
        assert (caught.value.code, client.failures.open) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)
    async with AsyncRateLimitClient(resetting, deadline=10) as client:
        with pytest.raises(SetupError) as caught:
            await client.check("rlk_test_a")
        assert (caught.value.code, client.failures.open) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 0)


@pytest.mark.parametrize("resetting", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL], indirect=True)
async def test_any_other_reset_is_a_fault_of_the_service(resetting: str) -> None:
    """A call that is reset for the server's own reasons, or that the server cancels, fails by the option."""
    with RateLimitClient(resetting, deadline=10) as client:
        assert client.check("rlk_test_a").reason is Reason.DEGRADED_ALLOWED
    async with AsyncRateLimitClient(resetting, deadline=10) as client:
        assert (await client.check("rlk_test_a")).reason is Reason.DEGRADED_ALLOWED
