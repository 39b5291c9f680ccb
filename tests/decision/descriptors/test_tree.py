"""The tree of rules: which node is for a descriptor, and in which bucket it counts."""

import pytest

from decision.descriptors.world import ALLOW, BLOCKED, DENY, FAIL, LOCAL, UNLIMITED, bucket, node, quota
from ratelimit_service.decision.descriptors.request import Entries
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleFailure, RuleNode
from ratelimit_service.decision.descriptors.tree import RuleTree
from ratelimit_service.decision.limit import Quota, Window


def tree(*nodes: RuleNode, domain: str = "shop", on_store_failure: RuleFailure = FAIL) -> RuleTree:
    """The compiled rules of a domain."""
    return RuleTree(DomainRules(domain, nodes, on_store_failure))


def amount(rules: RuleTree, *entries: tuple[str, str]) -> int | None:
    """The amount of the first limit that is for a descriptor, None when there is none."""
    limits = rules.match(entries).limits
    return limits[0].bucket.limit.capacity if limits else None


def name(rules: RuleTree, *entries: tuple[str, str]) -> str:
    """The name of the bucket of the first limit that is for a descriptor."""
    return rules.match(entries).limits[0].bucket.name


def test_exact_before_wildcard_before_any() -> None:
    """An exact value goes before a wildcard, and that before the key alone, in whatever order they are declared."""
    rules = tree(node("path", "", quota(1)), node("path", "/a*", quota(2)), node("path", "/ab", quota(3)))
    assert amount(rules, ("path", "/ab")) == 3
    assert amount(rules, ("path", "/abc")) == 2
    assert amount(rules, ("path", "/b")) == 1
    assert amount(rules, ("other", "/b")) is None


def test_first_wildcard_wins() -> None:
    """Of several wildcards that match, the one declared first is taken."""
    rules = tree(node("path", "/a*", quota(1)), node("path", "/ab*", quota(2)), node("path", "*", quota(3)))
    assert amount(rules, ("path", "/abc")) == 1
    assert amount(rules, ("path", "/x")) == 3


def test_stars_anywhere() -> None:
    """A star may stand anywhere in a value, and more than one may."""
    rules = tree(node("path", "/users/*/orders", quota(1)), node("path", "*/a/*.json", quota(2)))
    assert amount(rules, ("path", "/users/7/orders")) == 1
    assert amount(rules, ("path", "/users/7/orders/1")) is None
    assert amount(rules, ("path", "/x/a/b/c.json")) == 2
    assert amount(rules, ("path", "/users/*/orders")) == 1


def test_depth_must_be_the_same() -> None:
    """A node is for a descriptor only when all entries lead to it: not for fewer or more, nor in another order."""
    rules = tree(node("a", "1", below=(node("b", "", quota(5), below=(node("c", "", quota(7)),)),)))
    assert amount(rules, ("a", "1")) is None
    assert amount(rules, ("a", "1"), ("b", "x")) == 5
    assert amount(rules, ("a", "1"), ("b", "x"), ("c", "y")) == 7
    assert amount(rules, ("a", "1"), ("b", "x"), ("d", "y")) is None
    assert amount(rules, ("b", "x"), ("a", "1")) is None
    assert amount(rules, ("a", "1"), ("b", "x"), ("c", "y"), ("d", "z")) is None


def test_no_going_back() -> None:
    """Once an exact value was taken, the key alone is not tried, even if the way ends there."""
    rules = tree(node("a", "1"), node("a", "", below=(node("b", "", quota(5)),)))
    assert amount(rules, ("a", "2"), ("b", "x")) == 5
    assert amount(rules, ("a", "1"), ("b", "x")) is None


def test_each_value_has_its_own_bucket() -> None:
    """Under a key alone and under a wildcard each value counts for itself, on every level."""
    rules = tree(node("a", "", below=(node("b", "x*", quota(5)),)))
    names = {name(rules, ("a", a), ("b", b)) for a in "12" for b in ("x1", "x2")}
    assert len(names) == 4


@pytest.mark.parametrize("value", ["x*", "*1", "x*1", "*"])
def test_shared_wildcard_has_one_bucket(value: str) -> None:
    """With share_threshold all values of a wildcard count together; those above it still count apart."""
    rules = tree(node("a", "", below=(node("b", value, quota(5), share_threshold=True),)))
    assert name(rules, ("a", "1"), ("b", "x1")) == name(rules, ("a", "1"), ("b", "x21"))
    assert name(rules, ("a", "1"), ("b", "x1")) != name(rules, ("a", "2"), ("b", "x1"))


def test_limits_of_a_node_share_a_partition() -> None:
    """Several limits of one node have buckets of their own in one partition."""
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
    """Whatever a client puts into values, two descriptors never get the same bucket."""
    rules = tree(node("a", "", below=(node("b", "", quota(5)),)))
    assert name(rules, *one) != name(rules, *other)


def test_names_hold_no_text_of_callers() -> None:
    """The bucket's name is a digest, and the bucket's limit carries no name of the rules."""
    match = tree(node("email", "", quota(1, name="per person"))).match((("email", "ann@example.com"),))
    limit = match.limits[0].bucket
    assert set(limit.name) <= set("0123456789abcdef")
    assert limit.limit.name == "descriptor"


def test_on_store_failure_is_inherited() -> None:
    """A node's own on_store_failure goes before its parent's, and that before the domain's."""
    rules = tree(
        node("a", "", quota(1), on_store_failure=ALLOW, below=(node("b", "", quota(1)),)),
        node("c", "", quota(1), below=(node("d", "", quota(1), on_store_failure=DENY),)),
        on_store_failure=LOCAL,
    )
    assert rules.match((("a", "1"), ("b", "1"))).on_store_failure is ALLOW
    assert rules.match((("c", "1"),)).on_store_failure is LOCAL
    assert rules.match((("c", "1"), ("d", "1"))).on_store_failure is DENY


def test_override_takes_the_place_of_the_limits() -> None:
    """A request's own limit applies in the place of a node's, in one bucket whatever it says, and where nothing is."""
    rules = tree(node("a", "", quota(1, name="n"), on_store_failure=DENY))
    per_hour, per_day = (rules.override((("a", "1"),), Quota(9, window)) for window in (Window.HOUR, Window.DAY))
    assert [limit.algorithm for limit in per_hour.limits] == [Quota(9, Window.HOUR)]
    assert per_hour.limits[0].bucket.name == per_day.limits[0].bucket.name
    assert per_hour.on_store_failure is DENY
    elsewhere = rules.override((("b", "1"),), Quota(9, Window.HOUR))
    assert elsewhere.limits[0].bucket.name != per_hour.limits[0].bucket.name


def test_unlimited_and_blocked_have_no_bucket() -> None:
    """Nothing is counted where everything or nothing fits."""
    rules = tree(node("a", "", UNLIMITED), node("b", "", BLOCKED))
    assert [rules.match(((key, "1"),)).limits[0].bucket for key in "ab"] == [None, None]


def test_what_was_worked_out_is_shared() -> None:
    """A descriptor seen again gets the very same buckets, so that the store's preparation for them is of use."""
    rules = tree(node("a", "", quota(1)))
    entries = (("a", "1"),)
    assert rules.match(entries).limits[0].bucket is rules.match((("a", "1"),)).limits[0].bucket
    long = (("a", "x" * 10_000),)
    assert rules.match(long).limits[0].bucket is not rules.match(long).limits[0].bucket
    assert name(rules, *long) == name(rules, *long)
