"""What a newcomer does on the first day, from the console alone."""

import re

from playwright.async_api import Page, expect

from browser.callers import calling
from browser.conftest import Console, Open, sign_in
from browser.record import Record, stored_hashes
from ratelimit_service.management.tokens import Role

_SECRET = re.compile(r"rlk_live_[0-9A-Za-z]{16}_([0-9A-Za-z]{33})")


async def test_the_first_day(open_page: Open, console: Console) -> None:
    """Make a key, watch it being refused, boost it for an hour, see what another plan would refuse, and who did what.

    Nothing that the browser received on the way has a token, a secret, or the hash of one, but for the new key's secret
    on the one page that shows it.
    """
    page = await open_page("/sign-in", role=None)
    record = Record(page)
    await sign_in(page, console.tokens[Role.ADMIN])
    api_key = await _make_key(page, record)
    key_page = page.url
    key_id = api_key.split("_")[2]
    with calling(console.server, api_key, per_second=40):
        await expect(page.locator(".verdict")).to_contain_text("Would be refused", timeout=30_000)
        await expect(page.locator(".verdict")).to_contain_text("OVER_LIMIT")
        await record.take()
        await _boost(page, record)
        await _see_what_if(page, record)
        await _see_who(page, record, key_id)
        await page.goto(key_page)
        await expect(page.locator(".verdict")).to_contain_text("Would be allowed", timeout=30_000)
    await _check(page, record, console, api_key)


async def _make_key(page: Page, record: Record) -> str:
    """Make a key for `newcomer`, on `free`. Returns it, as the one page that has its secret shows it."""
    await _navigate(page, "Keys")
    await page.get_by_role("link", name="Make a key…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Subject").fill("newcomer")
    await dialog.get_by_label("Plan").select_option("free")
    await dialog.get_by_label("What it is for").fill("first steps")
    await record.take()
    await dialog.get_by_role("button", name="Make the key").click()
    shown = await page.locator("#v-secret").inner_text()
    assert _SECRET.fullmatch(shown)
    await page.get_by_role("link", name="I have stored it").click()
    await expect(page.get_by_role("row", name="daily")).to_contain_text("10,000 of 10,000")
    return shown


async def _navigate(page: Page, name: str) -> None:
    """Follow the link of the navigation, which may have a count beside its name."""
    await page.get_by_role("link", name=re.compile(rf"^{name}\b")).first.click()


async def _boost(page: Page, record: Record) -> None:
    await page.get_by_role("link", name="Boost for an hour…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Capacity").fill("200")
    await dialog.get_by_label("Refill").fill("100")
    await expect(dialog.get_by_label("Ends", exact=True)).to_have_value("1h")
    await record.take()
    await dialog.get_by_role("button", name="Set the override").click()
    await expect(page.get_by_role("row", name="burst")).to_contain_text("200, +100/s")
    await expect(page.locator(".verdict")).to_contain_text("Would be allowed", timeout=8_000)
    await record.take()


async def _see_what_if(page: Page, record: Record) -> None:
    """What tomorrow's plan would have refused today."""
    await _navigate(page, "Plans")
    await page.get_by_role("link", name="pro", exact=True).first.click()
    await page.get_by_role("link", name="Edit the limits…").click()
    await page.get_by_label("Refill of limit 1").fill("60")
    await page.get_by_role("button", name="Review").last.click()
    await expect(page.get_by_text("acme-retail").first).to_be_visible(timeout=20_000)
    await record.take()


async def _see_who(page: Page, record: Record, key_id: str) -> None:
    await _navigate(page, "Audit")
    rows = page.locator("tbody tr").filter(has_text=key_id)
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0)).to_contain_text("Override set")
    await expect(rows.nth(1)).to_contain_text("Key made")
    for row in (rows.nth(0), rows.nth(1)):
        await expect(row).to_contain_text("mara")
    await record.take()


async def _check(page: Page, record: Record, console: Console, api_key: str) -> None:
    cookies = [cookie["value"] for cookie in await page.context.cookies() if "session" in cookie["name"]]
    assert len(cookies) == 1
    hashes = stored_hashes(console.server.settings.database_url.get_secret_value())
    assert await record.where([*console.demo.secrets, *cookies, *hashes]) == []
    shown_at = {url for url, _ in await record.where([api_key.rpartition("_")[2]])}
    assert shown_at == {f"{console.url}/keys/new"}
