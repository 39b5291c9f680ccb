"""Debian's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
]


def find_program() -> str:
    """Chromium's path. Fails with what to do where there is none: a test that does not run proves nothing."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    raise AssertionError(
        f"these tests need a Chromium, and none of {', '.join(PROGRAMS)} is in the PATH; "
        "tests/install-tools installs it, on Debian that is: apt-get install chromium"
    )


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start a browser, and close it at the end."""
    # Chromium's sandbox does not start as root.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_program(), args=flags)
        try:
            yield browser
        finally:
            await browser.close()
