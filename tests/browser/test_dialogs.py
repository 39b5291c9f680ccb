"""Dialogs: pages of their own, shown over the page they are opened from."""

import pytest
from playwright.async_api import Page, expect

from browser.accessibility import serious_findings
from browser.conftest import DESKTOP, PHONE, Console, Open, Theme
from browser.layout import sideways

_DIALOGS = {
    "boost": "Boost for an hour…",
    "rotate": "Rotate…",
    "suspend": "Suspend…",
    "edit": "Edit plan, labels, expiry…",
    "revoke": "Revoke for ever…",
}


async def _open_dialog(page: Page, link: str) -> None:
    target = page.get_by_role("link", name=link)
    if not await target.is_visible():
        await page.get_by_label("More actions").click()
    await target.click()
    await expect(page.get_by_role("dialog")).to_be_visible()


@pytest.mark.parametrize(("theme", "size"), [("dark", DESKTOP), ("light", PHONE)], ids=["dark-desktop", "light-phone"])
async def test_dialogs_of_a_key_are_accessible(
    open_page: Open, console: Console, theme: Theme, size: tuple[int, int]
) -> None:
    """Each has a name, no serious finding of axe, no sideways scrolling, and is closed by Escape and by its button."""
    key_id = console.demo.key_ids["acme-retail/checkout-eu"]
    page = await open_page(f"/keys/{key_id}", theme=theme, size=size)
    problems: list[str] = []
    for name, link in _DIALOGS.items():
        await _open_dialog(page, link)
        dialog = page.get_by_role("dialog")
        assert await dialog.evaluate("e => document.getElementById(e.getAttribute('aria-labelledby'))?.textContent")
        problems += [f"{name}: {found}" for found in [*await serious_findings(page), *await sideways(page)]]
        await dialog.get_by_text("Cancel").click()
        await expect(dialog).to_be_hidden()
        await _open_dialog(page, link)
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
    await page.keyboard.press("?")
    problems += [f"keyboard: {found}" for found in await serious_findings(page)]
    assert not problems, "\n".join(problems)


async def test_the_focus_goes_into_a_dialog_and_back(open_page: Open, console: Console) -> None:
    """An opened dialog has the focus and keeps it; closed, what opened it has the focus again."""
    page = await open_page(f"/keys/{console.demo.key_ids['acme-retail/checkout-eu']}")
    opener = page.get_by_role("link", name="Suspend…")
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    for _ in range(6):
        inside = "document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        assert await page.evaluate(inside)
        await page.keyboard.press("Tab")
    await page.keyboard.press("Escape")
    await expect(opener).to_be_focused()
