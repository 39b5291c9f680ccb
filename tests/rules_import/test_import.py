"""Importing the format of envoyproxy/ratelimit: the result of each line, and what is reported about it."""

import pytest

from decision.descriptors.world import node
from ratelimit_service.decision.descriptors.rules import Blocked, DomainRules, RuleLimit, Unlimited
from ratelimit_service.decision.limit import Mode, Quota, TokenBucket, Window
from ratelimit_service.rules_import.envoy_ratelimit import Conversion
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importer import import_files, in_shadow, to_quota, to_token_bucket


def read(text: str, convert: Conversion = to_quota) -> tuple[list[DomainRules], list[str]]:
    """The rules of one file, and what the import reports, each with its line."""
    findings = Findings()
    rules = import_files([("f", text)], convert, findings)
    return rules, [str(finding).removeprefix("f:") for finding in findings.all]


def limit(text: str, convert: Conversion = to_quota) -> tuple[RuleLimit | None, list[str]]:
    """The limit that this rate_limit becomes, and what is reported about it."""
    rules, output = read(f"domain: d\ndescriptors:\n- key: k\n  rate_limit: {text}\n", convert)
    return rules[0].descriptors[0].limits[0] if rules[0].descriptors[0].limits else None, output


@pytest.mark.parametrize("unit", ["second", "Minute", "HOUR", "day"])
def test_windows_up_to_a_day_are_the_same(unit: str) -> None:
    """Up to a day a fixed window becomes a quota with the same window, without a finding."""
    assert limit(f"{{unit: {unit}, requests_per_unit: 7}}") == (RuleLimit(Quota(7, Window[unit.upper()])), [])


@pytest.mark.parametrize(("unit", "difference"), [("week", "Thursday"), ("month", "30 days"), ("year", "365 days")])
def test_longer_windows_are_calendar_windows(unit: str, difference: str) -> None:
    """Longer windows begin at other times in envoyproxy/ratelimit, which is reported."""
    found, output = limit(f"{{unit: {unit}, requests_per_unit: 7}}")
    assert found == RuleLimit(Quota(7, Window[unit.upper()]))
    assert len(output) == 1
    assert output[0].startswith("4: note: ")
    assert difference in output[0]


@pytest.mark.parametrize(("unit", "days"), [("day", 1), ("week", 7), ("month", 30)])
def test_as_token_bucket(unit: str, days: int) -> None:
    """As a token bucket the amount is the capacity, and is refilled once per window."""
    found, output = limit(f"{{unit: {unit}, requests_per_unit: 7}}", to_token_bucket)
    assert found == RuleLimit(TokenBucket(7, 7, days * 86_400_000_000))
    assert output == []


@pytest.mark.parametrize(("unit", "amount"), [("year", 7), ("month", 4_294_967_291)])
def test_an_invalid_token_bucket_stays_a_quota(unit: str, amount: int) -> None:
    """Where a bucket would refill too slowly, or its arithmetic would not be exact, it stays a quota, with a note."""
    found, output = limit(f"{{unit: {unit}, requests_per_unit: {amount}}}", to_token_bucket)
    assert found == RuleLimit(Quota(amount, Window[unit.upper()]))
    assert output[0].startswith("4: note: stays a quota")


def test_all_of_a_limit() -> None:
    """Names, replacements, shadow and 0 are kept; numbers may be written in any of YAML's forms."""
    rules, output = read("""
domain: d
descriptors:
- key: k
  value: 1.10
  shadow_mode: yes
  rate_limit: {unit: day, requests_per_unit: 0x10, name: n, replaces: [{name: m}, {name: o}]}
- key: k
  value: true
  rate_limit: {unit: day, requests_per_unit: 0}
- key: k
  value: ~
  rate_limit: {unlimited: true}
  shadow_mode: false
- {key: k2, rate_limit: }
""")
    assert output == []
    assert rules == [
        DomainRules(
            "d",
            (
                node("k", "1.10", RuleLimit(Quota(16, Window.DAY), "n", Mode.SHADOW, ("m", "o"))),
                node("k", "true", RuleLimit(Blocked())),
                node("k", "", RuleLimit(Unlimited())),
                node("k2"),
            ),
        )
    ]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("", ["1: error: the file is empty"]),
        ("domain: [", ["1: error: not YAML: "]),
        ("a: b\n c: d", ["2: error: not YAML: "]),
        ("domain: d\n---\ndomain: e", ["2: error: a second document"]),
        ("domain: a\x01b", ["1: error: not YAML: "]),
        ("- a", ["1: error: the file is a list; it must be a mapping", "1: error: domain is missing"]),
        ("descriptors: []", ["1: error: domain is missing"]),
        ("domain:", ["1: error: domain: is empty; name the domain"]),
        ("domain: [a]", ["1: error: domain is a list; it must be a string"]),
        ('domain: "a\\tb"', ["1: error: domain: has control characters"]),
        ('domain: " d"', ["1: error: domain: begins with U+0020 SPACE"]),
        ('domain: d\ndescriptors:\n- key: "k\\u200b"', ["3: error: key: has U+200B ZERO WIDTH SPACE"]),
        ('domain: d\ndescriptors:\n- key: k\n  value: "v "', ["3: error: value: ends with U+0020 SPACE"]),
        ("domain: d\nrules: 1", ["2: error: unknown key 'rules' in the file"]),
        ("domain: d\ndomain: e", ["2: error: domain is given twice, first in line 1"]),
        ("domain: d\n[a]: 1", ["2: error: a list as a key"]),
        ("domain: d\ndescriptors: 5", ["2: error: descriptors is '5'; it must be a list"]),
        ("domain: d\ndescriptors:\n- 5", ["3: error: a descriptor is '5'"]),
        ("domain: d\ndescriptors:\n- value: v", ["3: error: key: is empty"]),
        ("domain: d\ndescriptors:\n- key: k\n- key: b\n- key: k", ["5: error: the same key and value as in line 3"]),
        ("domain: d\ndescriptors:\n- key: k\n  shadow_mode: maybe\n  rate_limit: {unlimited: true}",
         ["4: error: shadow_mode is 'maybe'; it must be true or false"]),
        ("domain: d\ndescriptors: &x\n- key: k\n  descriptors: *x", ["4: error: aliases are not supported"]),
        ("domain: &d\n  <<: *d\n", ["2: error: aliases are not supported"]),
    ],
)  # fmt: skip
def test_errors_name_the_line(text: str, output: list[str]) -> None:
    """What cannot be read is an error with its line."""
    findings = Findings()
    import_files([("f", text)], to_quota, findings)
    assert findings.has_errors
    assert len(findings.all) >= len(output)
    for finding, start in zip(findings.all, output, strict=False):
        assert str(finding).startswith(f"f:{start}")


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("{unit: fortnight, requests_per_unit: 1}", "error: unit is 'fortnight'; use second"),
        ("{unit: unknown, requests_per_unit: 1}", "error: unit is 'unknown'; use second"),
        ("{requests_per_unit: 1}", "error: unit is missing"),
        ("{unit: day, requests_per_unit: -1}", "error: requests_per_unit is -1"),
        ("{unit: day, requests_per_unit: 4294967296}", "error: requests_per_unit is 4294967296"),
        ("{unit: day, requests_per_unit: 1.5}", "error: requests_per_unit is '1.5'; it must be an integer"),
        ('{unit: day, requests_per_unit: "5"}', "error: requests_per_unit is '5'; it must be an integer"),
        ("{unlimited: true, unit: day}", "error: an unlimited rate_limit must have no unit"),
        ("{unit: day, requests_per_unit: 1, name: it's}", 'error: name: is "it\'s"; use at most 64'),
        ('{unit: day, requests_per_unit: 1, name: "n "}', "error: name: ends with U+0020 SPACE"),
        ('{unit: day, requests_per_unit: 1, replaces: [{name: " m"}]}', "error: replaces[0]: begins with U+0020"),
        ("{unit: day, requests_per_unit: 1, replaces: [{}]}", "error: an entry of replaces needs a name"),
        ("{unit: day, requests_per_unit: 1, replaces: [{name: ''}]}", "error: replaces[0]: is empty"),
        ("{unit: day, requests_per_unit: 1, name: n, replaces: [{name: n}]}", "error: replaces[0]: is 'n'"),
        ("{unit: day, requests_per_unit: 1, burst: 5}", "error: unknown key 'burst' in rate_limit"),
        ("{unit: day, requests_per_unit: 1, shadow_mode: true}", "note: shadow_mode has no meaning in rate_limit"),
        ("{unlimited: true, requests_per_unit: 5}", "note: requests_per_unit has no meaning beside unlimited"),
        ("{unit: day}", "note: requests_per_unit is missing, which means 0"),
    ],
)
def test_invalid_limits(text: str, output: str) -> None:
    """What is invalid in a rate_limit, or has no meaning in it, is reported with its line."""
    _, findings = limit(text)
    assert len(findings) == 1
    assert findings[0].startswith(f"4: {output}")


def test_what_is_not_supported_is_reported() -> None:
    """Settings without a counterpart here are notes, one for each line."""
    rules, output = read("""domain: d
descriptors:
- key: k
  detailed_metric: true
  value_to_metric: true
  share_threshold: true
- key: api_key
  quota_mode: true
  rate_limit: {unit: day, requests_per_unit: 5}
- key: none
  shadow_mode: true
  requests_per_unit: 5
- key: a*
  metadata: {tier: [gold, {since: 2020}]}
""")
    starts = [
        "4: note: detailed_metric is left out",
        "5: note: value_to_metric is left out",
        "6: note: share_threshold has no meaning for a value without a *",
        "7: note: a descriptor with an api_key entry is decided by that key's plan",
        "8: note: quota_mode is not supported",
        "11: note: shadow_mode has no meaning without a rate_limit",
        "12: note: requests_per_unit has no meaning in a descriptor",
        "13: note: a * in a key is literal here",
        "14: note: metadata is left out",
    ]
    assert len(output) == len(starts)
    for line, start in zip(output, starts, strict=True):
        assert line.startswith(start)
    assert rules[0].descriptors[1].limits[0].mode is Mode.ENFORCE


def test_in_shadow() -> None:
    """All limits that could deny only report, on every level; the rest of the rules is the same."""
    (rules,), _ = read("""domain: d
descriptors:
- key: a
  rate_limit: {unit: day, requests_per_unit: 5, name: n, replaces: [{name: m}]}
  descriptors:
  - {key: b, value: x*, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 0}}
  - {key: c, rate_limit: {unlimited: true}}
""")
    nested = (
        node("b", "x*", RuleLimit(Blocked(), mode=Mode.SHADOW), share_threshold=True),
        node("c", "", RuleLimit(Unlimited())),
    )
    shadowed = RuleLimit(Quota(5, Window.DAY), "n", Mode.SHADOW, ("m",))
    assert in_shadow(rules) == DomainRules("d", (node("a", "", shadowed, below=nested),))


def test_shadow_takes_precedence_over_quota_mode() -> None:
    """A limit in both modes denies nothing, here or in envoyproxy/ratelimit."""
    rules, _ = read("""domain: d
descriptors:
- key: k
  shadow_mode: true
  quota_mode: true
  rate_limit: {unit: day, requests_per_unit: 5}
""")
    assert rules[0].descriptors[0].limits[0].mode is Mode.SHADOW


def test_files_of_one_domain_are_merged() -> None:
    """Files of one domain make one set of rules, with a note; what is in both is an error with both places."""
    findings = Findings()
    files = [
        ("one.yaml", "domain: d\ndescriptors: [{key: a}]"),
        ("two.yaml", "domain: e"),
        ("three.yaml", "domain: d\ndescriptors: [{key: b}]"),
    ]
    rules = import_files(files, to_quota, findings)
    assert rules == [DomainRules("d", (node("a"), node("b"))), DomainRules("e")]
    assert [str(finding) for finding in findings.all] == [
        "three.yaml:1: note: domain 'd' is merged with that of one.yaml:1"
    ]
    import_files([*files, ("four.yaml", "domain: d\n\ndescriptors:\n- key: a")], to_quota, findings)
    assert "four.yaml:4: error: the same key and value as in one.yaml:2; merge them" in map(str, findings.all)


def test_at_most_a_thousand_descriptors() -> None:
    """A domain with too many descriptors is an error, whether they are in one file or in several."""
    many = "".join(f"- key: k{n}\n" for n in range(1_000))
    assert read(f"domain: d\ndescriptors:\n{many}")[1] == []
    assert read(f"domain: d\ndescriptors:\n{many}- key: last\n")[1] == [
        "1003: error: more than 1000 descriptors; use several domains"
    ]
    findings = Findings()
    files = [("one", f"domain: d\ndescriptors:\n{many}"), ("two", "domain: d\ndescriptors: [{key: last}]")]
    import_files(files, to_quota, findings)
    assert "has 1001 descriptors" in str(findings.all[-1])


def test_rules_that_differ_by_order_alone() -> None:
    """They stop an import: the service would refuse them."""
    findings = Findings()
    text = """
domain: d
descriptors:
- key: a
  descriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 5}}]
- key: b
  descriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 6}}]
"""
    import_files([("one.yaml", text)], to_quota, findings)
    assert findings.has_errors
    assert "in another order" in str(findings.all[-1])
