"""The console with scripts turned off: every dialog is a page, and every button a form."""

import re

from playwright.async_api import expect

from browser.conftest import Console, Open, sign_in
from ratelimit_service.management.tokens import Role


async def test_the_basics_need_no_script(open_page: Open, console: Console) -> None:
    """Signing in, listing, opening, suspending and resuming a key work without JavaScript."""
    key_id, _ = console.server.key("free")
    page = await open_page("/sign-in", role=None, java_script_enabled=False)
    await sign_in(page, console.tokens[Role.ADMIN])
    await page.get_by_role("link", name=re.compile(r"^Keys\b")).first.click()
    await page.get_by_label("Subject, key id or label").fill(key_id)
    await page.get_by_role("button", name="Filter").click()
    await page.get_by_role("link", name=key_id).click()
    await page.get_by_role("link", name="Suspend…").click()
    await page.get_by_role("button", name="Suspend the key").click()
    await expect(page.locator("h1")).to_contain_text("Suspended")
    await page.get_by_role("button", name="Resume", exact=True).click()
    await expect(page.locator("h1")).to_contain_text("Active")
    await page.get_by_role("button", name="Sign out").first.click()
    await expect(page.get_by_label("Token")).to_be_visible()
