"""Figures that follow what happens, without a reload."""

from playwright.async_api import Page, expect

from browser.callers import call
from browser.conftest import Console, Open


async def test_what_is_left_follows_a_call(open_page: Open, console: Console) -> None:
    """A call with a key changes what its open page says is left, within seconds and without a reload."""
    page, api_key = await _open_key(open_page, console)
    await page.evaluate("window.unchanged = true")
    call(console.server, api_key, cost=7)
    await expect(page.get_by_role("row", name="daily")).to_contain_text("9,993 of 10,000", timeout=8_000)
    assert await page.evaluate("window.unchanged")


async def test_paused_figures_stay_and_then_catch_up(open_page: Open, console: Console) -> None:
    """`p` pauses the figures, the button says so, and `p` resumes them."""
    page, api_key = await _open_key(open_page, console)
    await page.keyboard.press("p")
    await expect(page.get_by_role("button", name="Paused")).to_be_visible()
    call(console.server, api_key, cost=5)
    await page.wait_for_timeout(2_500)
    row = page.get_by_role("row", name="daily")
    await expect(row).to_contain_text("10,000 of 10,000")
    await page.keyboard.press("p")
    await expect(row).to_contain_text("9,995 of 10,000", timeout=8_000)


async def test_nothing_moves_for_those_who_want_that(open_page: Open, console: Console) -> None:
    """With reduced motion nothing is animated, also while figures change and a dialog opens."""
    page, api_key = await _open_key(open_page, console, reduced_motion="reduce")
    call(console.server, api_key, cost=3)
    await expect(page.get_by_role("row", name="daily")).to_contain_text("9,997 of 10,000", timeout=8_000)
    await page.get_by_role("link", name="Suspend…").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    slow = await page.evaluate(
        "document.getAnimations().filter(a => a.effect.getComputedTiming().activeDuration > 10).length"
    )
    assert slow == 0


async def _open_key(open_page: Open, console: Console, **options: str) -> tuple[Page, str]:
    key_id, api_key = console.server.key("free")
    page = await open_page(f"/keys/{key_id}", **options)
    await expect(page.get_by_role("button", name="Live")).to_be_visible()
    return page, api_key
