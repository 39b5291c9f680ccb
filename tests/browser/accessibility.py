"""Accessibility by axe."""

from axe_playwright_python.async_playwright import Axe
from axe_playwright_python.base import AxeResults
from playwright.async_api import Page

_SERIOUS = {"serious", "critical"}
_AXE = Axe()
# WCAG 2.2 AA and axe's own best practices; contrast is among them.
_OPTIONS = {"resultTypes": ["violations"]}
_CONTRAST = "color-contrast"


async def serious_findings(page: Page) -> list[str]:
    """What axe finds serious or critical on the page as it is shown now, a line each."""
    # By evaluate: a script tag would be refused by the page's policy, as it should be.
    return _list_serious(await _AXE.run(page, options=_OPTIONS))


async def serious_findings_of_form(page: Page) -> list[str]:
    """The same but for contrast, which takes most of the time, and depends on the theme rather than on the size."""
    return _list_serious(await _AXE.run(page, options={**_OPTIONS, "rules": {_CONTRAST: {"enabled": False}}}))


async def faint_colors(page: Page) -> list[str]:
    """What axe finds of contrast alone: all that depends on the theme."""
    return _list_serious(await _AXE.run(page, options={**_OPTIONS, "runOnly": {"type": "rule", "values": [_CONTRAST]}}))


def _list_serious(results: AxeResults) -> list[str]:
    return [
        f"{found['id']} ({found['impact']}): {' '.join(map(str, node['target']))}: "
        f"{node['failureSummary'].splitlines()[-1].strip()}"
        for found in results.response["violations"]
        if found["impact"] in _SERIOUS
        for node in found["nodes"]
    ]
