"""What a page measures: whether it scrolls sideways, and how large what can be touched is."""

from playwright.async_api import Page

MIN_TOUCH = 44
"""Pixels of what is touched; of links within a sentence or list, 24 in height."""

_SIDEWAYS = """() => {
  const root = document.scrollingElement;
  const found = [];
  if (root.scrollWidth > root.clientWidth) {
    found.push(`page: ${root.scrollWidth} px`);
    for (const element of document.querySelectorAll("body *")) {
      const box = element.getBoundingClientRect();
      if (box.width && box.right > root.clientWidth + 1) found.push(name(element));
    }
  }
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && element.scrollWidth > element.clientWidth + 1;
    if (scrolls && !element.closest("pre, code, .diff")) found.push(`scrolls: ${name(element)}`);
  }
  return found.slice(0, 8);
  function name(element) {
    return `${element.localName}.${[...element.classList].join(".")} "${element.textContent.trim().slice(0, 30)}"`;
  }
}"""

_TARGETS = """(least) => {
  const found = [];
  const seen = new Set();
  for (const element of document.querySelectorAll("a[href], button, summary, select, input, textarea")) {
    if (element.type === "hidden" || element.disabled || element.matches(".vh")) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.getBoundingClientRect().bottom < 0 || clipped(element)) continue;  // for keyboards, screen readers
    element.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
    const within = element.closest("p, li, td, th, dd, h1, h2, h3, .note, .soft, .crumbs, ol, ul.log");
    const inText = element.localName === "a" && within && !element.matches(".btn") && !element.closest("nav");
    const least_high = inText ? 24 : least;
    const [width, height] = [reach(element, 1, 0), reach(element, 0, 1)];
    if (height < least_high || (!inText && width < least)) {
      const text = (element.getAttribute("aria-label") || element.textContent || element.name || "").trim();
      const kind = `${element.localName}.${[...element.classList].join(".")}`;
      if (!seen.has(kind)) found.push(`${kind} "${text.slice(0, 30)}" ${width} x ${height}`);
      seen.add(kind);
    }
  }
  scrollTo(0, 0);
  return found;

  function clipped(element) {
    for (let node = element; node; node = node.parentElement) {
      const box = node.getBoundingClientRect();
      if ((box.width < 2 || box.height < 2) && getComputedStyle(node).overflow !== "visible") return true;
    }
    return false;
  }

  /* How many pixels around the middle belong to the element or its label, in one direction. */
  function reach(element, dx, dy) {
    const box = element.getBoundingClientRect();
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const is = (distance) => {
      const hit = document.elementFromPoint(x + dx * distance, y + dy * distance);
      return !!hit && (element.contains(hit) || [...(element.labels ?? [])].some((label) => label.contains(hit)));
    };
    let [before, after] = [0, 0];
    while (before < least && is(-before - 1)) before += 1;
    while (after < least && is(after + 1)) after += 1;
    return before + after + 1;
  }
}"""


async def sideways(page: Page) -> list[str]:
    """What makes the page scroll sideways, or does so itself, but for code and diffs."""
    return list(await page.evaluate(_SIDEWAYS))


async def small_targets(page: Page) -> list[str]:
    """What is too small to be touched."""
    return list(await page.evaluate(_TARGETS, MIN_TOUCH))
