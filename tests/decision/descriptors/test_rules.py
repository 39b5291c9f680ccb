"""Domain rules: what is invalid, and which field is named."""

from collections.abc import Callable

import pytest

from decision.descriptors.world import BLOCKED, UNLIMITED, node, quota
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleNode, check_new
from ratelimit_service.errors import InvalidArgument


def deep(levels: int) -> RuleNode:
    """A chain of nodes with this many levels."""
    below: tuple[RuleNode, ...] = ()
    for _ in range(levels):
        below = (node("k", "", below=below),)
    return below[0]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: DomainRules(""), "domain"),
        (lambda: DomainRules("d" * 257), "domain"),
        (lambda: DomainRules("a\nb"), "domain"),
        (lambda: node(""), "key"),
        (lambda: node("k" * 257), "key"),
        (lambda: node("k", "\u00e9" * 129), "value"),
        (lambda: node("k", "a\0"), "value"),
        (lambda: node("k", "v", share_threshold=True), "share_threshold"),
        (lambda: node("k", "", share_threshold=True), "share_threshold"),
        (lambda: quota(1, name='say "no"'), "name"),
        (lambda: quota(1, name="it's"), "name"),
        (lambda: quota(1, name="a\\b"), "name"),
        (lambda: quota(1, name="a\x7f"), "name"),
        (lambda: quota(1, name="\u00e9"), "name"),
        (lambda: quota(1, name="n" * 65), "name"),
        (lambda: quota(1, replaces=("",)), "replaces[0]"),
        (lambda: quota(1, name="n", replaces=("m", "n")), "replaces[1]"),
        (lambda: quota(1, replaces=("r",) * 17), "replaces"),
        (lambda: node("k", "", quota(1), quota(2)), "limits[1].name"),
        (lambda: node("k", "", quota(1, name="n"), quota(2, name="n")), "limits[1].name"),
        (lambda: node("k", "", quota(1), UNLIMITED), "limits[1]"),
        (lambda: node("k", "", BLOCKED, quota(1)), "limits[0]"),
        (lambda: node("k", "", *(quota(1, name=f"n{n}") for n in range(17))), "limits"),
        (lambda: node("k", below=(node("b"), node("b"))), "descriptors[1]"),
        (lambda: DomainRules("d", (node("b", "v"), node("b"), node("b", "v"))), "descriptors[2]"),
        (lambda: DomainRules("d", (deep(17),)), "descriptors[0]"),
        (lambda: DomainRules("d", tuple(node(f"k{n}") for n in range(1_001))), "descriptors"),
    ],
)
def test_bad_rules_name_the_field(make: Callable[[], object], field: str) -> None:
    """Rules out of bounds are rejected with the invalid field."""
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert [violation.field for violation in caught.value.violations] == [field]


def test_bounds_are_inclusive() -> None:
    """Rules exactly on the bounds are valid."""
    DomainRules("d" * 256, (deep(16), *(node(f"k{n}") for n in range(984))))
    node("k" * 256, "v" * 256, *(quota(1, name=f"n{n}") for n in range(16)))
    quota(1, name=" !#$%&()*+,-./09:;<=>?@AZ[]^_`az{|}~", replaces=("r",) * 16)


def test_rules_that_differ_by_order_alone() -> None:
    """New ones are refused, since a bucket of Envoy's quota protocol would match both; where no limit is, they may."""
    first = node("a", "1", below=(node("b", "", quota(1)),))
    second = node("b", "", below=(node("a", "1", quota(2)),))
    rules = DomainRules("shop", (node("c"), first, second))
    with pytest.raises(InvalidArgument) as raised:
        check_new(rules)
    assert [each.field for each in raised.value.violations] == ["descriptors[2].descriptors[0]"]
    assert "descriptors[1].descriptors[0]" in raised.value.message
    check_new(DomainRules("shop", (first, node("b", "", below=(node("a", "1", below=(node("c", "", quota(2)),)),)))))
    check_new(DomainRules("shop", (first, node("b", "2", below=(node("a", "1", quota(2)),)))))
    repeated = [node("a", one, below=(node("a", other, quota(2)),)) for one, other in (("1", "2"), ("2", "1"))]
    check_new(DomainRules("shop", tuple(repeated)))
