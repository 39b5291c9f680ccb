"""Attacks by whoever reaches the port: each against a real server, with a victim beside it.

A test attacks with a function that runs in three processes of its own:

    def flood(address: str, until: float) -> dict[str, int]: ...  # one connection, until time.monotonic() is `until`

    def test_flood(target: Target) -> None:  # on each transport
        with attacked(target) as report:
            report.attack(flood)
        assert report.statements_per_second() < 10

At the end of the block the bars hold, or the test fails: no error and no DEGRADED answer for the victim; p99, memory.
`start_target("envoy", workers=2)` starts a server with other settings. `make attacks` runs all of them at full size and
prints a table; CI has a few seconds for each and bounds ten times as wide.
"""
