"""The watch of the other tests can fail: it sees what a page does wrong."""

import pytest
from playwright.async_api import Browser

from browser.conftest import Console
from browser.watch import Watch


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("document.body.setAttribute('style', 'color: red')", "Content Security Policy"),
        (
            "document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))",
            "Content Security",
        ),
        ("setTimeout(() => { throw new Error('broken') })", "broken"),
        ("fetch('/console/missing')", "404"),
        ("new Image().src = 'http://127.0.0.1:9/x.png'", "Content Security Policy"),
    ],
    ids=["style", "script", "error", "status", "host"],
)
async def test_a_problem_is_seen(browser: Browser, console: Console, script: str, problem: str) -> None:
    """A violation of the policy, an error of a script and a failed request are each a problem of the page."""
    context = await browser.new_context()
    page = await context.new_page()
    watch = Watch(page)
    await page.goto(f"{console.url}/sign-in")
    watch.check()
    await page.evaluate(f"() => {{ {script} }}")
    await page.wait_for_timeout(300)
    await context.close()
    assert any(problem in found for found in watch.problems), watch.problems
