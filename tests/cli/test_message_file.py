"""Plans in files."""

import io

import pytest

from ratelimit_service.cli.fault import Fault
from ratelimit_service.cli.message_file import read_plan


def file(text: str) -> io.StringIO:
    """A file of this content."""
    opened = io.StringIO(text)
    opened.name = "plan.yaml"
    return opened


def test_reads_yaml_in_the_shape_of_the_message() -> None:
    """Names are those of the proto, enums and durations are as in proto3 JSON."""
    written = read_plan(
        file("""
name: team
limits:
  - name: burst
    token_bucket: {capacity: 100, refill_tokens: 50, refill_period: 1.5s}
  - {name: daily, quota: {amount: 7, window: DAY}, mode: SHADOW}
on_store_failure: DENY
""")
    )
    plan = written.plan
    assert written.fields == {"name", "limits", "on_store_failure"}
    assert (plan.name, plan.OnStoreFailure.Name(plan.on_store_failure)) == ("team", "DENY")
    assert plan.limits[0].token_bucket.refill_period.ToMilliseconds() == 1500
    assert (plan.limits[1].quota.amount, plan.limits[1].Mode.Name(plan.limits[1].mode)) == (7, "SHADOW")


def test_reads_json() -> None:
    """JSON is read as well, so that what `plans get --json` prints can be given back."""
    assert read_plan(file('{"name": "x", "version": "3", "limits": []}')).plan.version == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "plan.yaml, line 1:"),
        ("name: x\nlimits: {a: b: c}", "plan.yaml, line 2:"),
        ("- name: x", "must hold a plan"),
        ("", "must hold a plan"),
        ("name: x\nlimit: []", 'no field named "limit"'),
        ("name: x\nlimits: [{name: b, quota: {amount: many, window: DAY}}]", "amount field"),
        ("name: x\nlimits: [{name: b, quota: {amount: 1, window: EON}}]", "EON"),
        ("name: x\nlimits: 5", "plan.yaml: "),
        ("name: x\nlimits: [5]", "plan.yaml: "),
        ("name: !!python/object:os.system x", "plan.yaml, line 1:"),
        ("name: \x00", "neither YAML nor JSON"),
    ],
)
def test_says_what_is_wrong(text: str, words: str) -> None:
    """A file that holds no plan is refused with its name and the line or field at fault."""
    with pytest.raises(Fault) as fault:
        read_plan(file(text))
    assert words in fault.value.lines[0]
