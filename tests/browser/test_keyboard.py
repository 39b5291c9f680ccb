"""The console by keyboard alone: no test here moves a pointer."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect

from browser.conftest import Console, Open, Theme
from browser.keyboard import focus_contrast, press, tab_to
from ratelimit_service.management.tokens import Role


async def test_a_key_is_suspended_and_resumed(open_page: Open, console: Console) -> None:
    """Signing in, finding a key, suspending it and resuming it take no pointer."""
    key_id, _ = console.server.key("free")
    page = await open_page("/sign-in", role=None)
    await page.keyboard.type(console.tokens[Role.ADMIN])  # the field has the focus
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: "sign-in" not in url)
    await press(page, "/")
    await page.keyboard.type(key_id)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/keys/{key_id}")
    await tab_to(page, page.get_by_role("link", name="Suspend…"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await tab_to(page, page.get_by_role("button", name="Suspend the key"))
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Suspended")
    await tab_to(page, page.get_by_role("button", name="Resume", exact=True))
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Active")


async def test_the_list_of_keys_opens_and_closes(open_page: Open) -> None:
    """`?` opens the list, Escape closes it, and the focus is where it was."""
    page = await open_page("/keys")
    await tab_to(page, page.get_by_role("link", name="Audit").first)
    await press(page, "?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await press(page, "Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    assert await page.evaluate("document.activeElement.textContent.trim()") == "Audit"


@pytest.mark.parametrize(
    ("letter", "path"), [("o", "/"), ("k", "/keys"), ("p", "/plans"), ("r", "/rules"), ("a", "/audit")]
)
async def test_two_letters_open_a_page(open_page: Open, console: Console, letter: str, path: str) -> None:
    """`g` and a letter open each page of the navigation."""
    page = await open_page("/audit" if path != "/audit" else "/keys")
    await press(page, "g", letter)
    await page.wait_for_url(f"{console.url}{path}")


async def test_rows_are_walked_and_opened(open_page: Open) -> None:
    """`j` and `k` move from row to row, and Enter opens the one that has the focus."""
    page = await open_page("/keys")
    rows = page.locator("main .t tbody .go")
    await press(page, "j", "j", "j", "k")
    await expect(rows.nth(1)).to_be_focused()
    key_id = (await rows.nth(1).inner_text()).rpartition("_")[2]
    await press(page, "Enter")
    await page.wait_for_url(f"**/keys/{key_id}")


async def test_letters_are_text_while_typing(open_page: Open) -> None:
    """In a field, `j`, `?` and `g k` are what is typed, and open nothing; Escape leaves nothing behind."""
    page = await open_page("/keys")
    await press(page, "/")
    await page.keyboard.type("j?gk")
    await expect(page.locator("#q")).to_have_value("j?gk")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.url.endswith("/keys")


async def test_single_keys_can_be_turned_off(open_page: Open) -> None:
    """The switch turns all keys off but `?`, also on the next page (WCAG 2.1.4)."""
    page = await open_page("/keys")
    await press(page, "?")
    switch = page.get_by_role("checkbox", name="Single keys are on")
    await tab_to(page, switch)
    await press(page, "Space", "Escape")
    await page.reload()
    await press(page, "/")
    await expect(page.locator("#q")).not_to_be_focused()
    await press(page, "?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await expect(switch).not_to_be_checked()


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("path", ["/keys/new", "/keys/{key_id}", "/plans/pro/edit"])
async def test_the_focus_is_visible(open_page: Open, console: Console, path: str, theme: Theme) -> None:
    """Whatever Tab reaches has a ring of 2 pixels, with a contrast of 3 to 1 to what is behind it."""
    page = await open_page(path.format(key_id=console.demo.key_ids["acme-retail/checkout-eu"]), theme=theme)
    stops = [stop async for stop in _stops(page)]
    assert len(stops) > 10
    assert not (weak := [place for place, contrast in stops if contrast < 3]), "\n".join(weak)


async def _stops(page: Page) -> AsyncIterator[tuple[str, float]]:
    """What Tab reaches, and the contrast of the ring around it."""
    seen: set[str] = set()
    await page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        await page.keyboard.press("Tab")
        place = await page.evaluate(
            "(e => e === document.body ? '' : `${e.outerHTML.slice(0, 120)} ${e.getBoundingClientRect().y}`)"
            "(document.activeElement)"
        )
        if not place or place in seen:
            return
        seen.add(place)
        yield re.sub(r"\s+", " ", place), await focus_contrast(page)
