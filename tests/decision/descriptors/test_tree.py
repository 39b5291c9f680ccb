"""The tree of rules: which node matches a descriptor, and in which bucket it is counted."""

import gc

import pytest

from decision.descriptors.world import ALLOW, BLOCKED, DENY, FAIL, LOCAL, UNLIMITED, bucket, node, quota
from ratelimit_service.decision.descriptors.request import Entries
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleNode, RuleOnStoreFailure
from ratelimit_service.decision.descriptors.tree import LimitSet, RuleTree
from ratelimit_service.decision.limit import Quota, Window
from ratelimit_service.decision.reason import Source


def tree(*nodes: RuleNode, domain: str = "shop", on_store_failure: RuleOnStoreFailure = FAIL) -> RuleTree:
    """The compiled rules of a domain."""
    return RuleTree(DomainRules(domain, nodes, on_store_failure))


def amount(rules: RuleTree, *entries: tuple[str, str]) -> int | None:
    """The amount of the first limit of a descriptor, None when there is none."""
    limits = rules.match(entries).limits
    return limits[0].bucket.limit.capacity if limits else None


def name(rules: RuleTree, *entries: tuple[str, str]) -> str:
    """The name of the bucket of the first limit of a descriptor."""
    return rules.match(entries).limits[0].bucket.name


def test_exact_before_wildcard_before_any() -> None:
    """An exact value takes precedence over a wildcard, and that over the key alone, in any order of declaration."""
    rules = tree(node("path", "", quota(1)), node("path", "/a*", quota(2)), node("path", "/ab", quota(3)))
    assert amount(rules, ("path", "/ab")) == 3
    assert amount(rules, ("path", "/abc")) == 2
    assert amount(rules, ("path", "/b")) == 1
    assert amount(rules, ("other", "/b")) is None


def test_first_wildcard_wins() -> None:
    """Of several wildcards that match, the one declared first applies."""
    rules = tree(node("path", "/a*", quota(1)), node("path", "/ab*", quota(2)), node("path", "*", quota(3)))
    assert amount(rules, ("path", "/abc")) == 1
    assert amount(rules, ("path", "/x")) == 3


def test_stars_anywhere() -> None:
    """A value may have one or more stars, at any position."""
    rules = tree(node("path", "/users/*/orders", quota(1)), node("path", "*/a/*.json", quota(2)))
    assert amount(rules, ("path", "/users/7/orders")) == 1
    assert amount(rules, ("path", "/users/7/orders/1")) is None
    assert amount(rules, ("path", "/x/a/b/c.json")) == 2
    assert amount(rules, ("path", "/users/*/orders")) == 1


def test_depth_must_be_the_same() -> None:
    """A node matches a descriptor only by its whole path: not with fewer or more entries, nor in another order."""
    rules = tree(node("a", "1", below=(node("b", "", quota(5), below=(node("c", "", quota(7)),)),)))
    assert amount(rules, ("a", "1")) is None
    assert amount(rules, ("a", "1"), ("b", "x")) == 5
    assert amount(rules, ("a", "1"), ("b", "x"), ("c", "y")) == 7
    assert amount(rules, ("a", "1"), ("b", "x"), ("d", "y")) is None
    assert amount(rules, ("b", "x"), ("a", "1")) is None
    assert amount(rules, ("a", "1"), ("b", "x"), ("c", "y"), ("d", "z")) is None


def test_no_backtracking() -> None:
    """Once an exact value has matched, the key alone is not tried, even if no child matches."""
    rules = tree(node("a", "1"), node("a", "", below=(node("b", "", quota(5)),)))
    assert amount(rules, ("a", "2"), ("b", "x")) == 5
    assert amount(rules, ("a", "1"), ("b", "x")) is None


def test_each_value_has_its_own_bucket() -> None:
    """Under a key alone and under a wildcard each value is counted separately, on every level."""
    rules = tree(node("a", "", below=(node("b", "x*", quota(5)),)))
    names = {name(rules, ("a", a), ("b", b)) for a in "12" for b in ("x1", "x2")}
    assert len(names) == 4


@pytest.mark.parametrize("value", ["x*", "*1", "x*1", "*"])
def test_shared_wildcard_has_one_bucket(value: str) -> None:
    """With share_threshold all values of a wildcard are counted together; those above it still separately."""
    rules = tree(node("a", "", below=(node("b", value, quota(5), share_threshold=True),)))
    assert name(rules, ("a", "1"), ("b", "x1")) == name(rules, ("a", "1"), ("b", "x21"))
    assert name(rules, ("a", "1"), ("b", "x1")) != name(rules, ("a", "2"), ("b", "x1"))


def test_limits_of_a_node_share_a_partition() -> None:
    """Several limits of one node have separate buckets in one partition."""
    rules = tree(node("a", "", bucket(1, name="burst"), quota(10, name="daily")))
    first, second = (limit.bucket for limit in rules.match((("a", "1"),)).limits)
    assert first.name != second.name
    assert first.partition == second.partition


def test_bucket_outlives_the_rules() -> None:
    """A bucket is named for the domain, the path and the limit's name, not for the amounts or the order of nodes."""
    before = tree(node("a", "", quota(1)))
    after = tree(node("z", "", quota(9)), node("a", "", bucket(100), on_store_failure=LOCAL))
    assert name(before, ("a", "1")) == name(after, ("a", "1"))
    assert name(before, ("a", "1")) != name(tree(node("a", "", quota(1)), domain="other"), ("a", "1"))
    assert name(before, ("a", "1")) != name(tree(node("a", "", quota(1, name="n"))), ("a", "1"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((("a", "1"), ("b", "2")), (("a", "1b"), ("b", "2"))),
        ((("a", "1"), ("b", "2")), (("a", "1\0b"), ("b", "2"))),
        ((("a", ""), ("b", "3:x")), (("a", "3:x"), ("b", ""))),
    ],
)
def test_no_two_paths_share_a_bucket(one: Entries, other: Entries) -> None:
    """Two descriptors never get the same bucket, whatever values a client sends."""
    rules = tree(node("a", "", below=(node("b", "", quota(5)),)))
    assert name(rules, *one) != name(rules, *other)


def test_names_contain_no_text_of_callers() -> None:
    """The bucket's name is a digest, and the bucket's limit has no name from the rules."""
    limit_set = tree(node("email", "", quota(1, name="per person"))).match((("email", "ann@example.com"),))
    bucket = limit_set.limits[0].bucket
    assert set(bucket.name) <= set("0123456789abcdef")
    assert bucket.limit.name == "descriptor"


def test_on_store_failure_is_inherited() -> None:
    """A node's own on_store_failure takes precedence over its parent's, and that over the domain's."""
    rules = tree(
        node("a", "", quota(1), on_store_failure=ALLOW, below=(node("b", "", quota(1)),)),
        node("c", "", quota(1), below=(node("d", "", quota(1), on_store_failure=DENY),)),
        on_store_failure=LOCAL,
    )
    assert rules.match((("a", "1"), ("b", "1"))).on_store_failure is ALLOW
    assert rules.match((("c", "1"),)).on_store_failure is LOCAL
    assert rules.match((("c", "1"), ("d", "1"))).on_store_failure is DENY


def test_override_replaces_the_limits() -> None:
    """A request's own limit applies in place of a node's, in one bucket for any limit, and where no node matches."""
    rules = tree(node("a", "", quota(1, name="n"), on_store_failure=DENY))
    per_hour, per_day = (rules.override((("a", "1"),), Quota(9, window)) for window in (Window.HOUR, Window.DAY))
    assert [limit.algorithm for limit in per_hour.limits] == [Quota(9, Window.HOUR)]
    assert [limit.algorithm for limit in per_day.limits] == [Quota(9, Window.DAY)]
    assert per_hour.limits[0].bucket.name == per_day.limits[0].bucket.name
    assert per_hour.on_store_failure is DENY
    elsewhere = rules.override((("b", "1"),), Quota(9, Window.HOUR))
    assert elsewhere.limits[0].bucket.name != per_hour.limits[0].bucket.name


def test_unlimited_and_blocked_have_no_bucket() -> None:
    """Limits that everything or nothing fits are not counted."""
    rules = tree(node("a", "", UNLIMITED), node("b", "", BLOCKED))
    assert [rules.match(((key, "1"),)).limits[0].bucket for key in "ab"] == [None, None]


def test_limit_sets_are_cached() -> None:
    """A descriptor seen again gets the identical buckets, so that the store's cache of their encoding is of use."""
    rules = tree(node("a", "", quota(1)))
    entries = (("a", "1"),)
    assert rules.match(entries).limits[0].bucket is rules.match((("a", "1"),)).limits[0].bucket
    long = (("a", "x" * 10_000),)
    assert rules.match(long).limits[0].bucket is not rules.match(long).limits[0].bucket
    assert name(rules, *long) == name(rules, *long)


def test_a_bucket_matches_in_any_order() -> None:
    """The rule has all its keys and values on its path, and no other; its limits are those of a descriptor."""
    rules = tree(
        node("a", "1", quota(1), below=(node("b", "", quota(5), below=(node("c", "x*", quota(7)),)),)),
        node("c", "", below=(node("a", "", quota(9)),)),
        node("d", "", below=(node("d", "", quota(11)),)),
        node("e", "", below=(node("f", "", UNLIMITED),)),
        node("f", "1", below=(node("e", "2"),)),
    )

    def found(**entries: str) -> int | None:
        limits = rules.match_bucket(entries).limits
        return limits[0].bucket.limit.capacity if limits else None

    assert found(a="1") == 1
    assert found(a="2") is None
    assert found(b="y", a="1") == found(a="1", b="y") == 5
    assert found(c="xy", b="y", a="1") == 7
    assert found(c="y", b="y", a="1") is None
    assert found(a="2", c="3") == 9
    assert found(d="1") is None
    assert not rules.match_bucket({"g": "1"}).series.field
    ordered = rules.match((("a", "1"), ("b", "y")))
    assert rules.match_bucket({"b": "y", "a": "1"}).buckets == ordered.buckets
    assert rules.match_bucket({"e": "2", "f": "1"}).limits  # the other rule has no limits: it matches no bucket
    assert rules.renewed(2**60).match_bucket({"b": "y", "a": "1"}).source is Source.UNENFORCED


@pytest.mark.parametrize(("length", "kept"), [(20, 5_000), (600, 10)])
def test_what_is_kept_of_values_is_bounded(length: int, kept: int) -> None:
    """Clients choose values: a few thousand short ones are kept, however many there are, and none that is long."""
    rules = tree(node("path", "", quota(1)))
    before = _limit_sets()
    for number in range(20_000):
        assert amount(rules, ("path", f"/{number}".ljust(length, "x"))) == 1
    assert _limit_sets() - before <= kept


def _limit_sets() -> int:
    return sum(isinstance(each, LimitSet) for each in gc.get_objects())
