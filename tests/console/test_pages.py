"""What the pages do, through their forms: keys, overrides, plans, rules, and finding things."""

import re
import time
from collections.abc import Callable
from html import unescape

import httpx
import pytest

from console.browser import Browser
from console.conftest import Manage
from fixtures.served import Server
from ratelimit_service.bootstrap import Services
from ratelimit_service.console.documents import difference, read_rules
from ratelimit_service.console.rules_path import parse_entries, route_of
from ratelimit_service.decision.descriptors.rules import DomainRules, RuleLimit, RuleNode
from ratelimit_service.decision.descriptors.tree import RuleTree
from ratelimit_service.decision.limit import Level, Limit, Mode, Quota, TokenBucket, Window
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.overrides import OverrideTarget
from ratelimit_service.management.plans import PlanDraft

SECOND = 1_000_000


@pytest.fixture
def plan(manage: Manage[object]) -> Callable[[str], None]:
    """Makes a plan with a bucket, a quota and a limit in shadow."""

    def make(name: str) -> None:
        limits = (
            Limit("burst", TokenBucket(200, 100, SECOND)),
            Limit("exports", Quota(200, Window.HOUR), "reports.*"),
            Limit("search", Quota(60, Window.MINUTE), "search.*", Mode.SHADOW),
        )
        draft = PlanDraft(name=name, limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        manage(lambda services: services.plans.create("test", draft))

    return make


def fields_of(page: str) -> dict[str, str]:
    """What a browser would send with the editor's form as it is."""
    found = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page))
    for name, options in re.findall(r'<select[^>]*name="([^"]+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r"<option(?: value=\"([^\"]*)\")? selected>([^<]*)", options)
        if chosen:
            found[name] = chosen[1] or chosen[2]
    return {name: unescape(value) for name, value in found.items() if name != "q"}


def test_an_invalid_key_is_explained_at_its_field(admin: Browser) -> None:
    """An error of a form stands at its field, and what was typed stays."""
    form = {"plan": "free", "subject": "", "labels": "no-value", "once": admin.once("/keys/new"), "description": "kept"}
    answer = admin.submit("/keys/new", **form)
    assert answer.status_code == 400
    assert re.search(r'id="e-labels">.*without a value', answer.text, re.DOTALL)
    assert 'value="kept"' in answer.text
    answer = admin.submit("/keys/new", **{**form, "labels": "team=a", "once": admin.once("/keys/new")})
    assert re.search(r'id="e-subject">.*name whom the limits apply to', answer.text, re.DOTALL)


def test_a_key_has_its_labels(admin: Browser) -> None:
    """Labels that a form has are the key's, and find it."""
    form = {"plan": "free", "subject": "with-labels", "labels": "team=checkout, region=eu", "expires": "30d"}
    admin.submit("/keys/new", **form, once=admin.once("/keys/new"))
    assert "with-labels" in admin.get("/keys?q=region%3Deu").text
    assert "with-labels" not in admin.get("/keys?q=region%3Dus").text


def test_a_boost_is_in_force_at_once(admin: Browser, server: Server, manage: Manage[object]) -> None:
    """An override of a key for an hour is what the engine explains, until it is ended."""
    key_id, _ = server.key("free")
    page = admin.get(f"/keys/{key_id}/override?limit=burst")
    assert 'name="capacity" value="40"' in page.text  # twice what is in force
    answer = admin.submit(f"/keys/{key_id}/override", limit="burst", capacity="200", refill_tokens="90", ends="1h")
    assert answer.status_code == 303

    def explained(text: str) -> bool:
        return text in admin.get(f"/keys/{key_id}?resource=x").text

    _until(lambda: explained("200 of 200"))
    assert explained("<del>20, +10/s</del>")
    (override,) = manage(lambda services: services.overrides.list(OverrideTarget(Level.KEY, key_id)))
    assert override.expires_us is not None
    asked = admin.submit(f"/keys/{key_id}/override/end", limit="burst")  # it cuts the limit by more than half
    admin.submit(f"/keys/{key_id}/override/end", **{**fields_of(asked.text), "csrf": admin.csrf()})
    _until(lambda: explained("20 of 20"))


def test_a_boost_offers_the_limit_that_refuses(admin: Browser, manage: Manage[str]) -> None:
    """Who is refused by the second limit of the plan is offered that one, by the key's page and by the subject's."""

    async def make(services: Services) -> str:
        limits = (Limit("ample", Quota(900, Window.DAY)), Limit("tight", Quota(1, Window.DAY)))
        plan = PlanDraft(name="two-limits", limits=limits, on_store_failure=OnStoreFailure.LOCAL, description="")
        await services.plans.create("admin", plan)
        draft = KeyDraft(plan="two-limits", subject="two-limits", description="", expires_us=None)
        key, _ = await services.keys.create("admin", draft)
        return key.key_id

    key_id = manage(make)
    for path in (f"/keys/{key_id}/override", "/subject/override?name=two-limits"):
        assert 'name="limit" value="tight"' in admin.get(path).text


def test_a_limit_with_a_new_name_is_added(admin: Browser, server: Server, manage: Manage[object]) -> None:
    """An override may be a further limit, of a key or of all keys of a subject; a name that is taken is explained."""
    key_id, _ = server.key("free")
    subject = manage(lambda services: services.keys.get(key_id)).subject  # type: ignore[attr-defined]
    form = {"limit_name": "nightly", "resource": "exports.*", "kind": "quota", "amount": "70", "window": "hour"}
    for path, page in (
        (f"/keys/{key_id}/override/new", f"/keys/{key_id}"),
        (f"/subject/override/new?name={subject}", f"/subject?name={subject}"),
    ):
        assert 'name="limit_name"' in admin.get(path).text
        bad = admin.submit(path, **{**form, "amount": "none"}, ends="1h")
        assert bad.status_code == 400
        assert 'id="e-amount"' in bad.text
        assert admin.submit(path, **form, mode="shadow", ends="1h").status_code == 303
        _until(lambda page=page: "70 per hour" in admin.get(page).text)  # type: ignore[misc]
        taken = admin.submit(path, **{**form, "limit_name": "burst"}, ends="1h")
        assert taken.status_code == 400
        assert 'id="e-limit_name"' in taken.text
        form = {**form, "limit_name": "of-all"}
    (override,) = manage(lambda services: services.overrides.list(OverrideTarget(Level.KEY, key_id)))
    assert override.limit == Limit("nightly", Quota(70, Window.HOUR), "exports.*", Mode.SHADOW)


def test_a_boost_that_cannot_be_is_refused(admin: Browser, server: Server) -> None:
    """An amount that no limit can have is explained at its field."""
    key_id, _ = server.key("free")
    answer = admin.submit(f"/keys/{key_id}/override", limit="burst", capacity="0", refill_tokens="x", ends="1h")
    assert answer.status_code == 400
    assert 'aria-invalid="true"' in answer.text


def test_revoking_needs_the_end_of_the_id(admin: Browser, server: Server) -> None:
    """Revoking is confirmed by typing; anything else changes nothing."""
    key_id, _ = server.key("free")
    assert admin.submit(f"/keys/{key_id}/revoke", confirm="nope").status_code == 400
    assert "Active" in admin.get(f"/keys/{key_id}").text
    assert admin.submit(f"/keys/{key_id}/revoke", confirm=key_id[-4:]).status_code == 303
    assert "Revoked" in admin.get(f"/keys/{key_id}").text


def test_many_keys_are_suspended_with_a_result_for_each(admin: Browser, server: Server) -> None:
    """A bulk action asks first, then does what it can, and names what it could not do."""
    ids = [server.key("free")[0] for _ in range(3)]
    admin.submit(f"/keys/{ids[0]}/suspend")
    asked = admin.submit("/keys/bulk", action="suspend", key_id=ids)
    assert "Type suspend 3" in asked.text
    assert "Active" in admin.get(f"/keys/{ids[1]}").text
    done = admin.submit("/keys/bulk", action="suspend", key_id=ids, confirm="suspend 3")
    assert "Suspended 2 of 3 keys" in done.text
    assert done.text.count("KEY_STATE_CONFLICT") == 1
    assert "Suspended" in admin.get(f"/keys/{ids[2]}").text


def test_a_changed_key_is_not_overwritten(admin: Browser, server: Server) -> None:
    """Conflict: a draft of a key that somebody changed meanwhile is kept and not saved, until it is sent again."""
    key_id, _ = server.key("free")
    form = fields_of(admin.get(f"/keys/{key_id}/edit").text)
    admin.submit(f"/keys/{key_id}/edit", **{**form, "csrf": admin.csrf(), "description": "by another"})
    answer = admin.submit(f"/keys/{key_id}/edit", **{**form, "csrf": admin.csrf(), "description": "mine"})
    assert answer.status_code == 409
    assert "ETAG_MISMATCH" in answer.text
    assert 'value="mine"' in answer.text
    assert "by another" in admin.get(f"/keys/{key_id}").text
    again = admin.submit(f"/keys/{key_id}/edit", **{**fields_of(answer.text), "csrf": admin.csrf()})
    assert again.status_code == 303
    assert "mine" in admin.get(f"/keys/{key_id}").text


def test_a_plan_is_reviewed_and_a_cut_confirmed(admin: Browser, plan: Callable[[str], None]) -> None:
    """A draft shows its difference and what it does; what refuses more is saved only with the plan's name."""
    plan("reviewed")
    form = fields_of(admin.get("/plans/reviewed/edit").text)
    form |= {"l1.amount": "80", "l2.mode": "enforce", "l0.refill_tokens": "120"}
    review = admin.submit("/plans/reviewed/edit", **{**form, "csrf": admin.csrf(), "do": "review"})
    assert review.status_code == 200
    assert "is cut by 60 %, more than half." in review.text
    assert "begins to refuse. It was in shadow." in review.text
    assert re.search(r'class="minus">.*amount: 200', review.text)
    assert re.search(r'class="plus">.*amount: 80', review.text)
    unconfirmed = admin.submit("/plans/reviewed/edit", **{**form, "csrf": admin.csrf(), "do": "save"})
    assert unconfirmed.status_code == 400
    assert "v1 in force" in admin.get("/plans/reviewed").text
    saved = admin.submit("/plans/reviewed/edit", **{**form, "csrf": admin.csrf(), "do": "save", "confirm": "reviewed"})
    assert saved.status_code == 303
    shown = admin.get("/plans/reviewed").text
    assert "v2 in force" in shown
    assert "80 per hour" in shown
    assert "<del>200 per hour for reports.*</del>" in shown


def test_a_limit_may_count_calls(admin: Browser, plan: Callable[[str], None]) -> None:
    """The unit of a limit is chosen where its amount is, confirmed like a cut, and shown beside the amount."""
    plan("of-calls")
    form = fields_of(admin.get("/plans/of-calls/edit").text)
    assert form["l1.counts"] == "cost"
    form |= {"l1.counts": "calls", "l1.overdraft": "unbounded"}
    review = admin.submit("/plans/of-calls/edit", **{**form, "csrf": admin.csrf(), "do": "review"})
    assert "counts calls, whatever they cost." in review.text
    assert re.search(r'class="plus">.*counts: CALLS', review.text)
    assert re.search(r'class="plus">.*unbounded: true', review.text)
    saved = admin.submit("/plans/of-calls/edit", **{**form, "csrf": admin.csrf(), "do": "save", "confirm": "of-calls"})
    assert saved.status_code == 303
    assert "200 calls per hour, overdraft" in admin.get("/plans/of-calls").text
    assert fields_of(admin.get("/plans/of-calls/edit").text)["l1.overdraft"] == "unbounded"


def test_a_plan_keeps_its_draft_in_a_conflict(admin: Browser, plan: Callable[[str], None]) -> None:
    """Conflict: the draft stays, compared with the version that is in force meanwhile."""
    plan("contested")
    form = fields_of(admin.get("/plans/contested/edit").text)

    def save(amount: str) -> httpx.Response:
        return admin.submit(
            "/plans/contested/edit", **{**form, "csrf": admin.csrf(), "do": "save", "l1.amount": amount}
        )

    assert save("300").status_code == 303
    answer = save("400")
    assert answer.status_code == 409
    page = answer.text
    assert "contested has changed since you opened it" in page
    assert re.search(r'class="minus">.*amount: 300', page)
    assert re.search(r'class="plus">.*amount: 400', page)
    assert fields_of(page)["l1.amount"] == "400"


def test_rows_of_a_plan_come_and_go(admin: Browser, plan: Callable[[str], None]) -> None:
    """Limits are added to a draft and removed from it, without saving anything."""
    plan("rows")
    form = fields_of(admin.get("/plans/rows/edit").text)
    more = fields_of(admin.submit("/plans/rows/edit", **{**form, "csrf": admin.csrf(), "do": "add_quota"}).text)
    assert more["l3.kind"] == "quota"
    less = fields_of(admin.submit("/plans/rows/edit", **{**form, "csrf": admin.csrf(), "do": "remove:0"}).text)
    assert less["l0.name"] == "exports"
    assert "l2.name" not in less
    assert "v1 in force" in admin.get("/plans/rows").text


def test_a_limit_on_calls_at_once_is_added(admin: Browser) -> None:
    """In the editor of a plan, where it has an input for its calls and one for its hold, and none for an overdraft."""
    form = fields_of(admin.get("/plans/new").text) | {"name": "at-once"}
    form = fields_of(admin.submit("/plans/new", **{**form, "csrf": admin.csrf(), "do": "add_concurrency"}).text)
    assert (form["l2.kind"], form["l2.default_hold"], "l2.overdraft" in form) == ("concurrency", "30 s", False)
    form |= {"l2.name": "calls", "l2.max": "20", "l2.default_hold": "2 min", "do": "save"}
    assert admin.submit("/plans/new", **{**form, "csrf": admin.csrf()}).status_code == 303
    assert "20 at once, each held for 2 min" in admin.get("/plans/at-once").text
    edited = fields_of(admin.get("/plans/at-once/edit").text)
    assert (edited["l2.max"], edited["l2.default_hold"]) == ("20", "2 min")
    wrong = {**edited, "l2.default_hold": "2 days", "csrf": admin.csrf(), "do": "save"}
    assert "must be between 1s and 1 hour" in admin.submit("/plans/at-once/edit", **wrong).text


def test_a_plan_is_made_and_deleted(admin: Browser) -> None:
    """A plan that is made in the editor is in force; it can be deleted while no key is on it."""
    form = fields_of(admin.get("/plans/new").text) | {"name": "made-here", "do": "save"}
    assert admin.submit("/plans/new", **{**form, "csrf": admin.csrf()}).status_code == 303
    assert "20, +10/s" in admin.get("/plans/made-here").text
    assert admin.submit("/plans/new", **{**form, "csrf": admin.csrf()}).status_code == 400  # the name is taken
    assert admin.submit("/plans/made-here/delete", confirm="made").status_code == 400
    assert admin.submit("/plans/made-here/delete", confirm="made-here").status_code == 303
    assert admin.get("/plans/made-here").status_code == 404
    assert admin.submit("/plans/free/delete", confirm="free").status_code in {303, 400}


def test_rules_are_reviewed_and_replaced(admin: Browser) -> None:
    """A document of rules is checked, compared, and put in force; a test shows the path that a descriptor takes."""
    node = "{key: path, value: '/a*', limits: [{name: a, quota: {amount: 5, window: DAY}}]}"
    document = f"domain: shop/eu\ndescriptors:\n  - {node}\n"
    bad = admin.submit("/rules/edit", document=document.replace("DAY", "AEON"), do="review")
    assert bad.status_code == 400
    review = admin.submit("/rules/edit", document=document, do="review")
    assert re.search(r'class="plus">.*domain: shop/eu', review.text)
    assert admin.get("/rules/domain?name=shop/eu").status_code == 404
    saved = admin.submit("/rules/edit", document=document, do="save")
    assert saved.headers["location"] == "/console/rules/domain?name=shop%2Feu"
    path = admin.get("/rules/domain?name=shop/eu&entries=path=/abc").text
    assert "the wildcard" in path
    assert "5 per day" in path
    assert "no rule of this level matches" in admin.get("/rules/domain?name=shop/eu&entries=path=/b").text
    etag = fields_of(admin.get("/rules/edit?name=shop/eu").text)["etag"]
    admin.submit("/rules/edit?name=shop/eu", document=document.replace("5", "6"), do="save", etag=etag)
    late = admin.submit("/rules/edit?name=shop/eu", document=document.replace("5", "7"), do="save", etag=etag)
    assert late.status_code == 409
    assert "amount: 7" in late.text  # the draft is kept
    assert admin.submit("/rules/edit", document="domain: held\nhold: 90s\n", do="save").status_code == 303
    assert "Calls with an API key are reserved for 1 min 30 s." in admin.get("/rules/domain?name=held").text
    assert "hold: 90s" in admin.get("/rules/edit?name=held").text


def test_names_with_slashes_and_dots_have_pages(admin: Browser) -> None:
    """Subjects and domains are any text: also those that paths would swallow."""
    for name in ("a/b", "..", "%2e", "a?b#c", "é"):
        form = {"plan": "free", "subject": name, "expires": "never", "once": admin.once("/keys/new")}
        assert admin.submit("/keys/new", **form).status_code == 200
        found = admin.submit("/find", q=name)
        assert found.headers["location"].startswith("/console/subject?name="), name
        assert admin.get(found.headers["location"].removeprefix("/console")).status_code == 200


def test_finding_opens_what_was_meant(admin: Browser, server: Server) -> None:
    """A key id opens the key, a plan's name the plan, and anything else the keys that match."""
    key_id, _ = server.key("free")
    assert admin.submit("/find", q=key_id).headers["location"] == f"/console/keys/{key_id}"
    assert admin.submit("/find", q=f"rlk_live_{key_id}").headers["location"] == f"/console/keys/{key_id}"
    assert admin.submit("/find", q="free").headers["location"] == "/console/plans/free"
    assert admin.submit("/find", q="subj").headers["location"] == "/console/keys?q=subj"
    assert key_id in admin.get(f"/keys?q={key_id[:6]}").text


def test_the_audit_log_says_who_changed_what(admin: Browser, server: Server) -> None:
    """A change stands in the audit log under the name of who made it, with the old and the new value."""
    key_id, _ = server.key("free")
    form = fields_of(admin.get(f"/keys/{key_id}/edit").text)
    admin.submit(f"/keys/{key_id}/edit", **{**form, "csrf": admin.csrf(), "description": "first"})
    form = fields_of(admin.get(f"/keys/{key_id}/edit").text)
    admin.submit(f"/keys/{key_id}/edit", **{**form, "csrf": admin.csrf(), "description": "second"})
    page = admin.get(f"/audit?target=keys/{key_id}&action=key.update").text
    assert re.search(r"<del>first</del>\s*second", page)
    assert key_id not in admin.get("/audit?actor=nobody").text


def test_the_audit_log_can_be_filtered_by_every_action(admin: Browser) -> None:
    """Nothing that is recorded is missing in the list, what lifts limits least of all."""
    page = admin.get("/audit").text
    for action in ("key.revoke", "plan.rollback", "rules.replace", "enforcement.off", "enforcement.on", "alert.test"):
        assert f'value="{action}"' in page


@pytest.mark.parametrize("path", ["/keys?state=ODD", "/keys/short", "/audit?start=yesterday", "/plans/none?version=x"])
def test_what_is_wrong_in_an_address_is_explained(admin: Browser, path: str) -> None:
    """A wrong address gets an answer with a reason, never a fault."""
    answer = admin.get(path)
    assert answer.status_code in {200, 400, 404}
    assert re.search(r"<code>(INVALID_FIELD|KEY_NOT_FOUND|PLAN_NOT_FOUND)</code>", answer.text)


RULES = DomainRules(
    "edge",
    (
        RuleNode("ip", "", (RuleLimit(Quota(1, Window.DAY), "any"),)),
        RuleNode("ip", "10.*", (RuleLimit(Quota(2, Window.DAY), "ten"),)),
        RuleNode("ip", "10.0.*", (RuleLimit(Quota(3, Window.DAY), "later"),)),
        RuleNode("ip", "10.0.0.1", (RuleLimit(Quota(4, Window.DAY), "one"),), (RuleNode("path", "/*x*"),)),
        RuleNode("path", "", (), (RuleNode("method", "GET", (RuleLimit(Quota(5, Window.DAY), "get"),)),)),
    ),
)


@pytest.mark.parametrize(
    "entries",
    ["ip=10.0.0.1", "ip=10.0.0.2", "ip=192.0.2.1", "path=/a", "path=/a,method=GET", "path=/a,method=PUT", "none=1",
     "ip=10.0.0.1,path=/axb", "ip=10.0.0.1,path=/a", "ip=", "method=GET"],
)  # fmt: skip
def test_the_path_is_the_one_that_decisions_take(entries: str) -> None:
    """The limits at the end of the path are those that the engine's tree finds."""
    parsed = parse_entries(entries)
    route = route_of(RULES, parsed)
    assert [limit.name for limit in route.limits] == [limit.name for limit in RuleTree(RULES).match(parsed).limits]


def test_documents_are_read_within_bounds() -> None:
    """YAML aliases, which stand for more than they are, and what is no document, are refused."""
    for text in ("a: &x 1\nb: *x\n", "- 1", "domain: [", "domain: {a: 1}", "nothing: 1"):
        with pytest.raises(InvalidArgument):
            read_rules(text)


def test_a_difference_leaves_out_what_is_far() -> None:
    """Lines far from a change are folded into one, and the numbers are those of the documents."""
    old = "\n".join(f"line {number}" for number in range(1, 21))
    lines = difference(old, old.replace("line 10\n", "line ten\n"))
    assert [(line.number, line.kind) for line in lines] == [
        (7, "fold"), (8, "same"), (9, "same"), (10, "minus"), (10, "plus"), (11, "same"), (12, "same"),
    ]  # fmt: skip
    assert difference(old, old) == []


def _until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.1)
