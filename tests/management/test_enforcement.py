"""The switch of all limits, on a real Postgres."""

import psycopg

from fixtures.control_plane import ControlPlane
from ratelimit_service.decision.limit import MICRO


async def test_no_comment_keeps_limits_off(control_plane: ControlPlane, database_url: str) -> None:
    """What somebody wrote past the service, such as megabytes, is cut off where the switch is read and turned on."""
    await control_plane.enforcement.turn_off("ada", 60 * MICRO, comment="drill")
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("UPDATE enforcement SET comment = repeat('x', 30000000), actor = repeat('y', 1000)")

    switch = await control_plane.enforcement.get()

    assert (len(switch.actor), len(switch.comment)) == (256, 256)
    assert (await control_plane.enforcement.turn_on("ada")).off_until_us == 0
