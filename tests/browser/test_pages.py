"""Every page in both themes and on a phone: it opens without an error, is accessible, and fits."""

import pytest
from playwright.async_api import expect

from browser.accessibility import faint_colors, serious_findings, serious_findings_of_form
from browser.addresses import PATHS, address
from browser.conftest import PHONE, Console, Open
from browser.layout import sideways, small_targets
from ratelimit_service.management.tokens import Role


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_is_accessible_and_fits(open_page: Open, console: Console, path: str) -> None:
    """A page has one h1, no serious finding of axe in either theme, and no sideways scrolling."""
    page = await open_page(address(path, console.demo), theme="dark", **_role(path))
    await expect(page.locator("h1")).to_have_count(1)
    problems = [*await serious_findings(page), *await sideways(page)]
    await page.emulate_media(color_scheme="light")
    problems += await faint_colors(page)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_is_accessible_and_fits_on_a_phone(open_page: Open, console: Console, path: str) -> None:
    """It does without scrolling sideways, and what can be touched is 44 pixels high and wide."""
    page = await open_page(address(path, console.demo), size=PHONE, theme="dark", **_role(path))
    problems = [*await serious_findings_of_form(page), *await sideways(page), *await small_targets(page)]
    assert not problems, "\n".join(problems)


def _role(path: str) -> dict[str, Role | None]:
    return {"role": None} if path == "/sign-in" else {}
