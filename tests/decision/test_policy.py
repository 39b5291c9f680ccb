"""The compilation of policies."""

import pytest

from decision.memory import START_US, ManualClock, burst, record
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.limit import Level
from ratelimit_service.decision.policy import NO_EXPIRY, Policy
from ratelimit_service.decision.reason import Reason
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.errors import InvalidArgument

KEY = ApiKey.generate("live")
LATER = START_US + 1_000_000


def test_precedence_of_levels() -> None:
    """A key's override takes precedence over its subject's, and that over the plan's limit of the same name."""
    compiled = Policy(
        record(KEY, burst(20), subject_overrides=(Override(burst(30)),), key_overrides=(Override(burst(40)),)), START_US
    )
    assert [(rule.limit.capacity, rule.level) for rule in compiled.rules] == [(40, Level.KEY)]
    assert [c.why_not for c in compiled.considered] == ["overridden by key", "overridden by key", ""]


def test_override_ends_at_its_expiry() -> None:
    """The level below applies again from the expiry on, and the policy's validity ends then, and not once more."""
    limits = record(KEY, burst(20), subject_overrides=(Override(burst(30), LATER),))
    before, after = Policy(limits, LATER - 1), Policy(limits, LATER)
    assert (before.rules[0].limit.capacity, before.validity.expires_us) == (30, LATER)
    assert after.rules[0].limit.capacity == 20
    assert [c.why_not for c in after.considered] == ["", "expired"]
    assert (after.validity.since_us, after.validity.expires_us) == (LATER, NO_EXPIRY - 1)
    own = Policy(record(KEY, burst(20), key_overrides=(Override(burst(30), LATER),)), LATER - 1)
    assert (own.rules[0].limit.capacity, own.validity.expires_us) == (30, LATER)


def test_a_policy_ends_when_the_clock_goes_back_over_an_expiry() -> None:
    """What was compiled while the clock was ahead is not kept: the key and the override are in force again."""
    clock = ManualClock()
    for limits in (
        record(KEY, burst(20), expires_us=LATER),
        record(KEY, burst(20), key_overrides=(Override(burst(30), LATER),)),
    ):
        clock.time_us = LATER
        compiled = Policy(limits, clock.now_us())
        assert compiled.validity.is_current(clock)
        clock.time_us = LATER - 1
        assert not compiled.validity.is_current(clock)
    assert Policy(record(KEY, burst(20)), LATER).validity.is_current(clock), "nothing in it ends"


def test_override_of_a_new_name_adds_a_limit() -> None:
    """An override with a name that the plan does not have is an additional limit."""
    compiled = Policy(record(KEY, burst(20), subject_overrides=(Override(burst(5, name="extra")),)), START_US)
    assert [rule.limit.name for rule in compiled.rules] == ["burst", "extra"]


def test_bucket_outlives_plan_and_key() -> None:
    """The bucket belongs to the subject: another plan, version, capacity or key of it is counted in the same one."""
    one = Policy(record(KEY, burst(20)), START_US)
    other = Policy(record(ApiKey.generate("live"), burst(200)).having(plan="pro", plan_version=7), START_US)
    assert one.rules[0].bucket.name == other.rules[0].bucket.name
    assert one.rules[0].bucket.partition == other.rules[0].bucket.partition


def test_an_override_of_the_subject_is_shared() -> None:
    """An override of the subject is counted in the subject's bucket, for all its keys together."""
    records = [record(ApiKey.generate("live"), subject_overrides=(Override(burst(30)),)) for _ in range(2)]
    buckets = [Policy(each, START_US).rules[0].bucket.name for each in (*records, record(KEY, burst()))]
    assert len(set(buckets)) == 1


def test_separate_buckets() -> None:
    """Other subjects, other limits and a key's own override have their own buckets, one subject's in one partition."""
    subject = Policy(record(KEY, burst(), burst(name="other")), START_US)
    other_subject = Policy(record(KEY, burst(), subject="else"), START_US)
    own = Policy(record(KEY, key_overrides=(Override(burst()),)), START_US)
    rules = [*subject.rules, *other_subject.rules, *own.rules]
    assert len({rule.bucket.name for rule in rules}) == len(rules)
    assert len({rule.bucket.partition for rule in [*subject.rules, *own.rules]}) == 1


def test_names_contain_no_text_of_the_caller() -> None:
    """No caller's string gets into the bucket store."""
    compiled = Policy(record(KEY, subject="acme {p1}\n"), START_US)
    assert compiled.rules[0].bucket.name.isalnum()
    assert "acme" not in compiled.rules[0].bucket.name


@pytest.mark.parametrize(
    ("pattern", "resource", "applies"),
    [
        ("*", "", True),
        ("*", "orders.create", True),
        ("orders.*", "orders.create", True),
        ("orders.*", "orders", False),
        ("orders.create", "orders.create", True),
        ("orders.create", "orders.create2", False),
        ("* /search*", "GET /search?", True),
        ("* /search*", "PROPFIND /search", True),
        ("* /search*", "GET /a /search", False),
        ("* /search*", "/search", False),
        ("* /search", "POST /search", True),
        ("* /search", "POST /searches", False),
        ("* *", "GET /", True),
        ("* *", "orders.create", False),
    ],
)
def test_resource_patterns(pattern: str, resource: str, applies: bool) -> None:
    """A pattern is exact, a prefix ending in a star, or a star, of all or of what follows the first word.

    A second call gives the same result.
    """
    compiled = Policy(record(KEY, burst(resource=pattern), burst(name="all")), START_US)
    for _ in range(2):
        names = [rule.limit.name for rule in compiled.select(resource).rules]
        assert names == (["burst", "all"] if applies else ["all"])


def test_resources_are_checked_and_the_cache_is_bounded() -> None:
    """A resource that is too long or has control characters is rejected, and callers cannot fill the memory."""
    compiled = Policy(record(KEY), START_US)
    for resource in ("x" * 257, "é" * 129, "a\nb", "\x7f"):
        with pytest.raises(InvalidArgument):
            compiled.select(resource)
    for number in range(10_000):
        compiled.select(f"resource-{number}")
    assert len(compiled._selections or ()) < 64


def test_refusals() -> None:
    """Suspended, revoked and expired keys are refused, each for its own reason; expiry is exact."""
    assert Policy(record(KEY), START_US).refusal is None
    assert Policy(record(KEY, state=KeyState.SUSPENDED), START_US).refusal is Reason.KEY_SUSPENDED
    assert Policy(record(KEY, state=KeyState.REVOKED), START_US).refusal is Reason.KEY_REVOKED
    expiring = record(KEY, expires_us=LATER)
    assert Policy(expiring, LATER - 1).refusal is None
    assert Policy(expiring, LATER - 1).validity.expires_us == LATER
    assert Policy(expiring, LATER).refusal is Reason.KEY_EXPIRED


@pytest.mark.parametrize(
    ("state", "reason"), [(KeyState.REVOKED, Reason.KEY_REVOKED), (KeyState.SUSPENDED, Reason.KEY_SUSPENDED)]
)
def test_revocation_and_suspension_take_precedence_over_expiry(state: KeyState, reason: Reason) -> None:
    """A key that was revoked or suspended is refused for that reason after its expiry, too."""
    assert Policy(record(KEY, state=state, expires_us=LATER), LATER).refusal is reason
