"""Accessibility by axe."""

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page

_SERIOUS = {"serious", "critical"}
_AXE = Axe()
# WCAG 2.2 AA and axe's own best practices; contrast is among them.
_OPTIONS = {"resultTypes": ["violations"]}


async def serious_findings(page: Page) -> list[str]:
    """What axe finds serious or critical on the page as it is shown now, a line each."""
    # By evaluate: a script tag would be refused by the page's policy, as it should be.
    results = await _AXE.run(page, options=_OPTIONS)
    return [
        f"{found['id']} ({found['impact']}): {' '.join(map(str, node['target']))}: "
        f"{node['failureSummary'].splitlines()[-1].strip()}"
        for found in results.response["violations"]
        if found["impact"] in _SERIOUS
        for node in found["nodes"]
    ]
