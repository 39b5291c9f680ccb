"""Usage on the command line, from end to end."""

import csv
import io
import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from fixtures.dev_server import PROGRAM, DevServer
from fixtures.usage import Counted, Series, UsageWriter, add_partitions, connect
from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.usage.query import Counts

ACME = [Series(f"cli-key-{number}", "orders.create", "cli-acme", "cli-plan") for number in range(3)]
RULE = Series(domain="cli-edge", rule="path=/v1")
HELD = Series("cli-held", "chat.create", "cli-held", "cli-held")


@pytest.fixture(scope="module")
def counted(dev_server: DevServer) -> DevServer:
    """The server, with counts of three keys over two hours and of a rule."""
    postgres = EmbeddedPostgres(dev_server.data_dir / "postgres")
    postgres.start()  # finds the one that runs
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    rows = [
        Counted(now - timedelta(minutes=10 * age), series, Counts(100 * (number + 1), number, 50 * age, 1, 2), limits)
        for number, series in enumerate(ACME)
        for age in range(1, 13)
        for limits in [(("burst", number, 1),) * bool(number)]
    ]
    with connect(postgres.url) as connection:
        add_partitions(connection, now - timedelta(days=1), 3)
        rows.append(Counted(now, RULE, Counts(5, 1, 5), (("path=/v1", 1, 0),)))
        rows.append(Counted(now, HELD, Counts(12, 0, 4_000, reserved=11, settled=8)))
        UsageWriter(connection).write(rows)
    return dev_server


def test_the_table_has_sparklines_and_a_total(counted: DevServer) -> None:
    """Groups, the busiest first, each with its counts and a line of its calls over time; the rest, and the total."""
    done = counted.run("usage", "--subject", "cli-acme", "--by", "key", "--top", "2", "--last", "3h")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:7] == ["KEY_ID", "CALLS", "ALLOWED", "DENIED", "COST", "SHADOW_DENIED", "DEGRADED"]
    assert lines[0][7:] == ["DENIED", "%", "CALLS", "OVER", "TIME"]
    assert lines[1][:8] == ["cli-key-2", "3,624", "3,600", "24", "3,900", "12", "24", "0.7"]
    assert set("".join(lines[1][8:])).issubset("▁▂▃▄▅▆▇█")
    assert lines[2][:3] == ["cli-key-1", "2,412", "2,400"]
    assert lines[3][:4] == ["(1", "others)", "1,200", "1,200"]
    assert lines[4][:3] == ["total", "7,236", "7,200"]
    assert "counted by hour" in done.stderr
    assert "\x1b" not in done.stdout


def test_json_has_rows_with_numbers(counted: DevServer) -> None:
    """One object; each of its rows has its group, and counts as numbers, zeros included."""
    done = counted.run("usage", "--plan", "cli-plan", "--by", "key,limit", "--last", "3h", "--json")
    found = json.loads(done.stdout)
    row = found["rows"][0]
    assert (row["key_id"], row["limit"], row["allowed"], row["denied"], row["cost"]) == ("cli-key-2", "burst", 0, 24, 0)
    assert found["total"]["denied"] == 36
    assert found["group_count"] == 2
    allowed = json.loads(counted.run("usage", "--key", "cli-key-0", "--json").stdout)["rows"]
    assert [(row["allowed"], row["denied"], row["cost"]) for row in allowed] == [(1200, 0, 3900)]


def test_reservations_are_shown_where_there_are_any(counted: DevServer) -> None:
    """With columns of their own, in the table, in JSON and in CSV."""
    command = ("usage", "--subject", "cli-held", "--last", "1h")
    table = counted.run(*command).stdout.splitlines()
    assert table[0].split()[5:8] == ["DEGRADED", "RESERVED", "SETTLED"]
    assert table[1].split()[6:8] == ["11", "8"]
    total = json.loads(counted.run(*command, "--json").stdout)["total"]
    assert (total["reserved"], total["settled"]) == (11, 8)
    (row,) = csv.DictReader(io.StringIO(counted.run(*command, "--csv").stdout))
    assert (row["reserved"], row["settled"]) == ("11", "8")


def test_csv_has_a_line_for_each_row(counted: DevServer) -> None:
    """With a step, a line for each group and bin under the names of the fields; they add up."""
    done = counted.run("usage", "--subject", "cli-acme", "--by", "key", "--step", "5m", "--last", "3h", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 36
    assert sum(int(row["allowed"]) for row in rows) == 7200
    assert {row["key_id"] for row in rows} == {series.key for series in ACME}
    assert list(rows[0])[:2] == ["start_time", "key_id"]


def test_rules_and_outcomes(counted: DevServer) -> None:
    """Descriptors are asked for by domain and rule; an outcome leaves the groups that have it."""
    done = counted.run("usage", "--domain", "cli-edge", "--by", "domain,rule", "--json")
    assert [(row["rule"], row["allowed"], row["denied"]) for row in json.loads(done.stdout)["rows"]] == [
        ("path=/v1", 5, 1)
    ]
    done = counted.run("usage", "--subject", "cli-acme", "--by", "key", "--outcome", "denied", "--json")
    assert [row["key_id"] for row in json.loads(done.stdout)["rows"]] == ["cli-key-2", "cli-key-1"]


def test_all_groups_come_page_by_page(counted: DevServer) -> None:
    """With --top 0 every group is listed, by name."""
    done = counted.run("usage", "--subject", "cli-acme", "--by", "key", "--top", "0", "--json")
    assert [row["key_id"] for row in json.loads(done.stdout)["rows"]] == [series.key for series in ACME]


def test_nothing_counted(counted: DevServer) -> None:
    """A filter that nothing matches is answered in words."""
    done = counted.run("usage", "--key", "nobody", "--by", "key")
    assert (done.returncode, done.stdout) == (0, "nothing was counted\n")


@pytest.mark.parametrize("start", ["2h", "-2h"])
def test_a_range_may_begin_so_long_ago(counted: DevServer, start: str) -> None:
    """--from takes how long ago, as `audit list --since` does, with or without a minus."""
    done = counted.run("usage", "--subject", "cli-acme", "--from", start, "--json")
    report = json.loads(done.stdout)
    begin, end = (datetime.fromisoformat(report[name]) for name in ("start_time", "end_time"))
    assert timedelta(hours=2) <= end - begin <= timedelta(hours=4)  # moved outward to whole bins
    assert report["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "colour"], "--by colour: use key, subject, plan, resource, limit, domain, rule"),
        (["--last", "soon"], "--last: 'soon' is not a duration"),
        (["--from", "yesterday"], "--from: 'yesterday' is not a time"),
        (["--last", "1h", "--from", "-2h"], "--last and --from contradict each other"),
        (["--step", "90s"], "step: is 90s; it must be whole minutes"),
        (["--key", "a", "--domain", "b"], "group_by: and filter name"),
    ],
)
def test_mistakes_are_explained(counted: DevServer, arguments: list[str], message: str) -> None:
    """A command line that cannot be answered ends with exit code 2, and says what is wrong."""
    done = counted.run("usage", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_watch_repeats_until_interrupted(counted: DevServer) -> None:
    """--watch prints again every five seconds; Ctrl-C ends it with exit code 0."""
    with subprocess.Popen(
        [str(PROGRAM), "usage", "--key", "cli-key-0", "--watch"],
        env=counted.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        times = []
        for line in process.stdout:
            if line.startswith("CALLS"):
                times.append(time.monotonic())
            if len(times) == 2:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert 4 < times[1] - times[0] < 60
