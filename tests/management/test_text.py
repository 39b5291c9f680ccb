"""Texts that people type: what looks like another is refused, with its code point; what is stored is not checked."""

import unicodedata
from functools import partial

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decision.descriptors.world import node
from fixtures.control_plane import DAY, START, ControlPlane, key_draft, plan_draft
from ratelimit_service.api.status import clip
from ratelimit_service.decision.api_key import ApiKey
from ratelimit_service.decision.descriptors.rules import DomainRules
from ratelimit_service.decision.limit import Level, Limit, Quota, Window
from ratelimit_service.decision.record import KeyState, Override
from ratelimit_service.decision.text import quoted
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.key import KeyChanges
from ratelimit_service.management.keys import KeyFilter
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.plans import PlanChanges
from ratelimit_service.management.text import check_description, check_labels, check_name, check_subject

REFUSED = {
    "right-to-left override": ("acme\u202ephp.live", "U+202E RIGHT-TO-LEFT OVERRIDE at character 5"),
    "isolate": ("a\u2066b", "U+2066 LEFT-TO-RIGHT ISOLATE"),
    "mark": ("a\u200fb", "U+200F RIGHT-TO-LEFT MARK"),
    "Arabic letter mark": ("a\u061cb", "U+061C ARABIC LETTER MARK"),
    "zero width space": ("ac\u200bme", "U+200B ZERO WIDTH SPACE at character 3"),
    "joiner in Latin": ("ac\u200dme", "U+200D ZERO WIDTH JOINER"),
    "non-joiner after a letter that does not join": ("\u0627\u200c\u0628", "U+200C ZERO WIDTH NON-JOINER"),
    "joiner at the end": ("\u0915\u094d\u200d", "U+200D ZERO WIDTH JOINER"),
    "byte order mark": ("\ufeffacme", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
    "soft hyphen": ("ac\u00adme", "U+00AD SOFT HYPHEN"),
    "tag": ("acme\U000e0041", "U+E0041 TAG LATIN CAPITAL LETTER A"),
    "grapheme joiner": ("a\u034fb", "U+034F COMBINING GRAPHEME JOINER"),
    "Hangul filler": ("a\u3164b", "U+3164 HANGUL FILLER"),
    "Braille blank": ("a\u2800b", "U+2800 BRAILLE PATTERN BLANK"),
    "invisible note": ("a\U0001d159b", "U+1D159 MUSICAL SYMBOL NULL NOTEHEAD"),
    "variation selector": ("a\ufe0fcme", "U+FE0F VARIATION SELECTOR-16"),
    "emoji style of a digit": ("1\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
    "emoji style at the start": ("\ufe0fa", "U+FE0F VARIATION SELECTOR-16"),
    "ideographic variation": ("\u845b\U000e0100", "U+E0100 VARIATION SELECTOR-17"),
    "line separator": ("a\u2028b", "U+2028 LINE SEPARATOR"),
    "control": ("a\tb", "U+0009 (a control character)"),
    "C1 control": ("a\x85b", "U+0085 (a control character)"),
    "unassigned": ("a\u0378b", "U+0378 (unassigned in Unicode"),
    "noncharacter": ("a\ufffeb", "U+FFFE (unassigned in Unicode"),
    "private use": ("a\ue000b", "U+E000 (a private use character)"),
    "surrogate": ("a\ud800b", "U+D800 (half of a surrogate pair)"),
    "decomposed": ("cafe\u0301", "is not in Unicode normalization form C (NFC): send U+00E9 in place of U+0065 U+0301"),
    "Hangul letters": ("\u1100\u1161\u11a8", "send U+AC01 in place of U+1100 U+1161 U+11A8"),
    "Angstrom sign": ("1 \u212b", "send U+00C5 in place of U+212B"),
}
"""What no text may hold, with what the error says about it."""

REFUSED_IN_NAMES = {
    "no-break space": ("acme\u00a0corp", "U+00A0 NO-BREAK SPACE at character 5, which reads as a plain blank"),
    "em space": ("a\u2003b", "U+2003 EM SPACE"),
    "ideographic space": ("a\u3000b", "U+3000 IDEOGRAPHIC SPACE"),
    "emoji style": ("\u2764\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
    "keycap": ("1\ufe0f\u20e3", "U+FE0F VARIATION SELECTOR-16"),
    "joined emoji": ("\U0001f468\u200d\U0001f469", "U+200D ZERO WIDTH JOINER"),
}
"""What a description may hold, and a name may not: two of them can look the same."""

ACCEPTED = [
    "acme",
    "GET /orders?a=b",
    "Müller & Söhne",
    "株式会社",
    "شركة",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # a Persian verb, which needs its non-joiner
    "\u0915\u094d\u200d\u0937",  # a joiner after a virama changes the letter
    "ไทย",
    "👍🏽",
    "\u0600123",  # a sign that encloses a number
    "",
]

ODD = "ac\u202eme "
"""A subject, resource or description as versions before stored it."""


def refusal(text: str, *, prose: bool = False) -> str:
    """What the error about a name, or a description, says."""
    with pytest.raises(InvalidArgument) as caught:
        check_description(text) if prose else check_name("name", text)
    (violation,) = caught.value.violations
    assert violation.field == ("description" if prose else "name")
    assert violation.description.isprintable()
    assert len(violation.description) < 256
    return violation.description


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_misleads_is_refused_everywhere(text: str, message: str) -> None:
    """Names, subjects, labels and descriptions are refused with the code point, which the error never shows itself."""
    assert message in refusal(text)
    assert message in refusal(text, prose=True)
    for check in (check_subject, lambda value: check_labels({"team": value})):
        with pytest.raises(InvalidArgument) as caught:
            check(text)
        assert message in caught.value.message


@pytest.mark.parametrize(("text", "message"), REFUSED_IN_NAMES.values(), ids=REFUSED_IN_NAMES)
def test_names_hold_less_than_descriptions(text: str, message: str) -> None:
    """Wide blanks and emoji as phones type them are for descriptions: in names they would look like others."""
    assert message in refusal(text)
    check_description(text)


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u3000"])
@pytest.mark.parametrize("form", ["{}acme", "acme{}", "{}"])
def test_blanks_at_the_ends_are_refused(form: str, blank: str) -> None:
    """Neither a name nor a description begins or ends with a blank."""
    text = form.format(blank)
    assert unicodedata.name(blank) in refusal(text)
    assert f"s with U+{ord(blank):04X}" in refusal(text, prose=True)


@pytest.mark.parametrize("text", ACCEPTED)
def test_texts_of_any_script_are_accepted(text: str) -> None:
    """What people write in their own script passes as a name and as a description."""
    check_name("name", text)
    check_description(text)


@given(st.text(st.characters(categories=["L", "N", "P"], exclude_characters="\u115f\u1160\u3164\uffa0")))
def test_normal_letters_are_accepted(text: str) -> None:
    """Every letter, digit and punctuation mark of Unicode is accepted in its normal spelling."""
    check_name("name", unicodedata.normalize("NFC", text))


@given(st.text(max_size=40))
def test_every_text_is_accepted_or_named(text: str) -> None:
    """No text ends in anything but acceptance or an error that can be printed."""
    problem = ""
    try:
        check_name("name", text)
    except InvalidArgument as error:
        problem = error.message
    assert problem.isprintable()
    assert problem or unicodedata.is_normalized("NFC", text)


def test_the_names_of_plans_and_limits_are_quoted_with_their_code_point() -> None:
    """A name that merely resembles ASCII is refused with the code point of the letter that is not."""
    with pytest.raises(InvalidArgument, match=r"with U\+0435 CYRILLIC SMALL LETTER IE; use 1 to 64"):
        Limit("daily-fr\u0435e", Quota(1, Window.DAY))


async def test_a_stored_subject_stays_manageable(control_plane: ControlPlane, database_url: str) -> None:
    """A key of a subject that is refused today is listed, read, changed, limited, rotated, suspended and revoked."""
    await control_plane.plans.create("ada", plan_draft())
    key, _ = await control_plane.keys.create("ada", key_draft() | {"description": "x", "labels": {"team": "x"}})
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE keys SET subject = %s, description = %s, labels = jsonb_build_object('team', %s::text)", [ODD] * 3
        )
    keys, subject = control_plane.keys, OverrideTarget(Level.SUBJECT, ODD)

    assert (await keys.get(key.key_id)).subject == ODD
    assert [one.key_id for one in (await keys.list(Paging(), KeyFilter(subject=ODD, labels={"team": ODD}))).items] == [
        key.key_id
    ]
    changed = await keys.update("ada", key.key_id, KeyChanges(expires_us=START + DAY, description=ODD))
    assert changed.description == ODD  # a form sends back what it was shown
    await keys.update("ada", key.key_id, KeyChanges(labels={"team": ODD, "tier": "gold"}))
    await control_plane.overrides.set("ada", subject, Override(Limit("daily", Quota(1, Window.DAY))))
    assert len(await control_plane.overrides.list(subject)) == 1
    assert not await control_plane.overrides.delete("ada", subject, "daily")
    await keys.rotate("ada", key.key_id)
    await keys.suspend("ada", key.key_id)
    assert (await keys.revoke("ada", key.key_id)).state is KeyState.REVOKED


async def test_a_stored_name_is_not_given_anew(control_plane: ControlPlane) -> None:
    """No key is made, changed or limited with a text that is refused; a list that finds nothing by it says why."""
    await control_plane.plans.create("ada", plan_draft())
    key, _ = await control_plane.keys.create("ada", key_draft())
    refused = [
        control_plane.keys.create("ada", key_draft(ODD)),
        control_plane.keys.update("ada", key.key_id, KeyChanges(description=ODD)),
        control_plane.keys.update("ada", key.key_id, KeyChanges(labels={"team": ODD})),
        control_plane.keys.list(Paging(), KeyFilter(subject=ODD)),
        control_plane.overrides.set(
            "ada", OverrideTarget(Level.SUBJECT, ODD), Override(Limit("daily", Quota(1, Window.DAY)))
        ),
    ]
    for call in refused:
        with pytest.raises(InvalidArgument, match=r"U\+202E RIGHT-TO-LEFT OVERRIDE"):
            await call


async def test_stored_texts_of_plans_and_rules_may_be_sent_again(
    control_plane: ControlPlane, database_url: str
) -> None:
    """A plan and a domain with texts that are refused today take new versions, which keep those and add none."""
    odd, other = Limit("daily", Quota(1, Window.DAY), ODD), Limit("burst", Quota(1, Window.DAY), f"{ODD}2")
    await control_plane.plans.create("ada", plan_draft("free", Limit("daily", Quota(1, Window.DAY), "x")))
    await control_plane.rules.replace("ada", DomainRules("shop", (node("a", "x"),)))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE plan_versions SET description = %s, limits = jsonb_set(limits, '{0,resource}', to_jsonb(%s::text))",
            [ODD] * 2,
        )
        connection.execute(
            "UPDATE rule_versions SET descriptors = jsonb_set(descriptors, '{0,value}', to_jsonb(%s::text))", [ODD]
        )
    assert (await control_plane.plans.update("ada", "free", PlanChanges(limits=(odd,), description=ODD))).version == 2
    with pytest.raises(InvalidArgument, match=r"limits\[1\]\.resource: has U\+202E"):
        await control_plane.plans.update("ada", "free", PlanChanges(limits=(odd, other)))
    assert (await control_plane.rules.replace("ada", DomainRules("shop", (node("a", ODD), node("b"))))).version == 2
    with pytest.raises(InvalidArgument, match=r"descriptors\[1\]\.value: has U\+202E"):
        await control_plane.rules.replace("ada", DomainRules("shop", (node("a", ODD), node("b", f"{ODD}2"))))


@pytest.mark.parametrize(
    "secret", [str(ApiKey("live", "0123456789abcdef", "s" * 27)), "rlt_0123456789ab_" + "x" * 33], ids=["key", "token"]
)
def test_secrets_are_no_names(secret: str) -> None:
    """A key or a token in full is neither a name nor in a description, and no error repeats it."""
    for check in (partial(check_name, "subject"), check_description):
        with pytest.raises(InvalidArgument, match="secret") as caught:
            check(f"of {secret}")
        assert secret[-20:] not in str(caught.value)
    assert secret[-20:] not in quoted(secret)
    assert secret[-20:] not in clip(f"there is no {secret}")
    check_name("subject", secret[:20])
