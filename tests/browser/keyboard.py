"""Moving about by keyboard alone."""

from playwright.async_api import Locator, Page

MAX_STOPS = 120
"""Presses of Tab within which everything on a page is reached."""

_RING = """(element) => {
  const style = getComputedStyle(element);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(color) && color !== "transparent") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const light = (color) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) return 0;
  const [ring, back] = [light(style.outlineColor), light(behind(element.parentElement))];
  return (Math.max(ring, back) + 0.05) / (Math.min(ring, back) + 0.05);
}"""


async def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until TARGET has the focus."""
    for _ in range(MAX_STOPS):
        if await target.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"not reached by Tab: {target}")


async def press(page: Page, *keys: str) -> None:
    """Press keys one after the other."""
    for key in keys:
        await page.keyboard.press(key)


async def focus_contrast(page: Page) -> float:
    """The contrast of the ring around what has the focus to what is behind it; 0 if it has none of 2 pixels."""
    return float(await page.locator(":focus").evaluate(_RING))
