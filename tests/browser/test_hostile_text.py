"""Text that callers and admins choose, in a browser that would run it."""

from urllib.parse import quote

from playwright.async_api import Page

from browser.conftest import Console, Open
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2

_SCRIPT = "\"'><img src=x onerror=top.ran=1><script>top.ran=1</script>"


async def test_no_text_is_run(open_page: Open, console: Console) -> None:
    """Markup in a subject, description, label and resource is shown as it was written, on every page that has it."""
    create = {"plan": "free", "subject": _SCRIPT, "description": _SCRIPT, "labels": {"note": _SCRIPT}}
    request = admin_pb2.ManageKeyRequest(create=create)
    made = console.server.manage().ManageKey(request, metadata=console.server.as_admin)
    key_id = made.create.key.key_id
    page = await open_page(f"/keys/{key_id}?resource={quote(_SCRIPT)}")
    for path in ("", f"/keys?q={key_id}", f"/keys/{key_id}/edit", f"/audit?target=keys/{key_id}"):
        if path:
            await page.goto(f"{console.url}{path}")
        assert _SCRIPT in await page.locator("body").inner_text() or _SCRIPT in await _values(page)
        assert await page.evaluate("window.ran") is None


async def _values(page: Page) -> str:
    return "\n".join(await page.locator("input").evaluate_all("fields => fields.map(field => field.value)"))
