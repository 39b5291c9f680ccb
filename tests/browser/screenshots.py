"""Renews docs/screenshots: `make screenshots`. Not one of the tests, but on the same server, data and browser."""

from pathlib import Path

import pytest

from browser.conftest import PHONE, Console, Open, Theme

FOLDER = Path(__file__).parent.parent.parent / "docs" / "screenshots"
SHOTS: dict[str, tuple[str, tuple[int, int], Theme]] = {
    "overview-dark": ("/", (1440, 1000), "dark"),
    "overview-light": ("/", (1440, 1000), "light"),
    "key-light": ("/keys/{key}", (1440, 1000), "light"),
    "phone": ("/", PHONE, "dark"),
}


@pytest.mark.parametrize("name", SHOTS)
async def test_a_page_is_shot(open_page: Open, console: Console, name: str) -> None:
    """A page as a picture."""
    path, size, theme = SHOTS[name]
    FOLDER.mkdir(exist_ok=True)
    key = console.demo.key_ids["acme-retail/checkout-eu"]
    page = await open_page(path.format(key=key), size=size, theme=theme, reduced_motion="reduce")
    await page.wait_for_timeout(1_500)  # until live figures have come
    await page.screenshot(path=FOLDER / f"{name}.png", scale="device" if size == PHONE else "css")
