"""Messages in files."""

import io

import pytest

from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.message_file import read_message


def read(text: str) -> tuple[Plan, frozenset[str]]:
    """The plan in a file of this content, and the fields that the file sets."""
    file, plan = io.StringIO(text), Plan()
    file.name = "plan.yaml"
    return plan, read_message(file, plan, "a plan")


def test_reads_yaml_in_the_shape_of_the_message() -> None:
    """Names are those of the proto, enums and durations are as in proto3 JSON."""
    plan, fields = read("""
name: team
limits:
  - name: burst
    token_bucket: {capacity: 100, refill_tokens: 50, refill_period: 1.5s}
  - {name: daily, quota: {amount: 7, window: DAY}, mode: SHADOW}
on_store_failure: DENY
""")
    assert fields == {"name", "limits", "on_store_failure"}
    assert (plan.name, plan.OnStoreFailure.Name(plan.on_store_failure)) == ("team", "DENY")
    assert plan.limits[0].token_bucket.refill_period.ToMilliseconds() == 1500
    assert (plan.limits[1].quota.amount, plan.limits[1].Mode.Name(plan.limits[1].mode)) == (7, "SHADOW")


def test_reads_json() -> None:
    """JSON is read as well, so that what `plans get --json` prints is valid input."""
    assert read('{"name": "x", "version": "3", "limits": []}')[0].version == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "plan.yaml, line 1:"),
        ("name: x\nlimits: {a: b: c}", "plan.yaml, line 2:"),
        ("- name: x", "must hold a plan"),
        ("", "must hold a plan"),
        ("name: x\nlimit: []", "plan.yaml, line 2: unknown field 'limit'; did you mean `limits`?"),
        ("name: x\nlimits:\n- nmae: b", "line 3: unknown field 'nmae' in limits[0]; did you mean `name`?"),
        ("name: x\nfrobnicate: 1", "line 2: unknown field 'frobnicate'; use name, version, limits,"),
        (
            "name: x\nlimits: [{name: b, quota: {amount: many, window: DAY}}]",
            "line 2: limits[0].quota.amount is 'many'; write a whole number within bounds",
        ),
        (
            "name: x\nlimits: [{name: b, quota: {amount: 1, window: dya}}]",
            "HOUR, DAY, WEEK, MONTH, YEAR, SECOND; did you mean `DAY`?",
        ),
        ("name: x\nlimits: [{name: b, quota: {amount: 1, window: EON}}]", "window is 'EON'; use MINUTE, HOUR, DAY,"),
        ("name: x\nlimits: [{name: b, concurrency: {max: 1, default_hold: 30}}]", "write a duration in seconds: 90s"),
        ("name: x\ncreate_time: soon", "line 2: create_time is 'soon'; write a time: 2027-01-31T12:00:00Z"),
        ("name: 5", "line 1: name is 5, which is no text; write it in quotes"),
        ("name: x\nlimits: 5", "plan.yaml, line 2: limits is a single value; write a list"),
        ("name: x\nlimits: [5]", "plan.yaml, line 2: limits[0] is a single value; write an object"),
        ("name: x\nlimits:\n- {quota: {amount: 1}, token_bucket: {capacity: 1}}", "plan.yaml, line 1: "),
        ("name: !!python/object:os.system x", "plan.yaml, line 1:"),
        ("name: x\nversion: \x00", "plan.yaml, line 2: not YAML"),
    ],
)
def test_names_the_invalid_line_or_field(text: str, message: str) -> None:
    """A file that holds no valid plan is refused with its name and the invalid line or field."""
    with pytest.raises(CommandError) as error:
        read(text)
    assert message in error.value.lines[0]
