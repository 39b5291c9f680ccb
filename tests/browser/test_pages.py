"""Every page in both themes and on a phone: it opens without an error, is accessible, and fits."""

from typing import NamedTuple

import pytest
from playwright.async_api import expect

from browser.accessibility import serious_findings
from browser.addresses import PATHS, address
from browser.conftest import DESKTOP, PHONE, Console, Open, Theme
from browser.layout import sideways, small_targets
from ratelimit_service.management.tokens import Role


class View(NamedTuple):
    """How a page is seen."""

    size: tuple[int, int]
    theme: Theme


VIEWS = [View(DESKTOP, "dark"), View(DESKTOP, "light"), View(PHONE, "dark")]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.size[0]}-{view.theme}")
async def test_a_page_is_accessible_and_fits(open_page: Open, console: Console, path: str, view: View) -> None:
    """A page has one h1, no serious finding of axe and no sideways scrolling; on a phone, targets of 44 pixels."""
    page = await open_page(address(path, console.demo), size=view.size, theme=view.theme, **_role(path))
    await expect(page.locator("h1")).to_have_count(1)
    problems = [*await serious_findings(page), *await sideways(page)]
    if view.size == PHONE:
        problems += await small_targets(page)
    assert not problems, "\n".join(problems)


def _role(path: str) -> dict[str, Role | None]:
    return {"role": None} if path == "/sign-in" else {}
