"""Forms whose changes have to be confirmed, and the banner while no limit refuses."""

import time
from collections.abc import Callable

from console.browser import Browser
from console.conftest import Manage
from console.test_pages import fields_of, plan
from ratelimit_service.bootstrap import Services
from ratelimit_service.decision.limit import Level
from ratelimit_service.management.keys import KeyDraft
from ratelimit_service.management.overrides import OverrideTarget

__all__ = ["plan"]

SECONDS = 20.0


def until(holds: Callable[[], bool]) -> None:
    """Return once HOLDS."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_plan_that_lifts_a_limit(admin: Browser, plan: Callable[[str], None]) -> None:
    """What lifts a limit is asked about on a page of its own; its form, as it is, makes the change, and no other."""
    plan("lifted")
    form = fields_of(admin.get("/plans/lifted/edit").text) | {"l0.mode": "shadow", "do": "save"}
    asked = admin.submit("/plans/lifted/edit", **{**form, "csrf": admin.csrf()})
    assert asked.status_code == 409
    assert "limit burst only reports any more" in asked.text
    assert "No call of its keys was counted in the last 24 h." in asked.text
    assert "v1 in force" in admin.get("/plans/lifted").text
    again = fields_of(asked.text)
    other = admin.submit("/plans/lifted/edit", **{**again, "csrf": admin.csrf(), "l1.mode": "shadow"})
    assert other.status_code == 409
    assert admin.submit("/plans/lifted/edit", **{**again, "csrf": admin.csrf()}).status_code == 303
    assert "v2 in force" in admin.get("/plans/lifted").text


def test_an_override_is_set_and_ended(admin: Browser, plan: Callable[[str], None], manage: Manage[object]) -> None:
    """A boost to more than ten times is asked about, and its end too."""
    plan("boosted")

    async def create(services: Services) -> str:
        draft = KeyDraft(plan="boosted", subject="boosted-much", description="", expires_us=None)
        return (await services.keys.create("test", draft))[0].key_id

    key_id = manage(create)
    target = OverrideTarget(Level.KEY, str(key_id))
    path = f"/keys/{key_id}/override"
    asked = admin.submit(path, limit="burst", capacity="4000", refill_tokens="90", ends="1h")
    assert asked.status_code == 409
    assert "limit burst is lifted to 20 times as much" in asked.text
    assert admin.submit(path, **{**fields_of(asked.text), "csrf": admin.csrf()}).status_code == 303
    asked = admin.submit(f"{path}/end", limit="burst")
    assert asked.status_code == 409
    assert "limit burst is cut by 95 %" in asked.text
    assert manage(lambda services: services.overrides.list(target))
    assert admin.submit(f"{path}/end", **{**fields_of(asked.text), "csrf": admin.csrf()}).status_code == 303
    assert not manage(lambda services: services.overrides.list(target))


def test_rules_that_are_lifted(admin: Browser) -> None:
    """A document that leaves a limit out is asked about; a domain's name that was typed confirms its end."""
    document = "domain: asked\ndescriptors:\n- key: path\n  limits: [{name: p, quota: {amount: 5, window: DAY}}]\n"
    assert admin.submit("/rules/edit", document=document, do="save").status_code == 303
    fewer = "domain: asked\ndescriptors:\n- key: path\n"
    asked = admin.submit("/rules/edit?name=asked", document=fewer, do="save")
    assert asked.status_code == 409
    assert "path: limit p is removed" in asked.text
    token = fields_of(asked.text)["confirmation"]
    saved = admin.submit("/rules/edit?name=asked", document=fewer, do="save", confirmation=token)
    assert saved.status_code == 303
    admin.submit("/rules/edit?name=asked", document=document, do="save")
    assert admin.submit("/rules/delete?name=asked", confirm="asked").status_code == 303


def test_a_banner_while_no_limit_refuses(admin: Browser, manage: Manage[object]) -> None:
    """Every page says that no limit refuses, until when, and who did that."""
    manage(lambda services: services.enforcement.turn_off("mara", 600_000_000, comment="drill"))
    try:
        until(lambda: "No limit refuses calls." in admin.get("/keys").text)
        page = admin.get("/keys").text
        assert "turned off by mara: drill" in page
        assert "ratelimit-service enforcement on" in page
        assert "enforcement is off until" in admin.get("/").text
    finally:
        manage(lambda services: services.enforcement.turn_on("mara"))
    until(lambda: "No limit refuses calls." not in admin.get("/keys").text)
