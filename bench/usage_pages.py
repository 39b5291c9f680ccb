"""How long the overview of the console takes, over HTTP and with nothing of it in memory."""

import time
from typing import Final

import httpx

from bench.usage_questions import Timing, percentiles

_PAUSE_SECONDS: Final = 11.0
"""Between two openings: figures that pages share are kept for ten seconds."""

_OPENINGS: Final = 9


def measure_pages(address: str, token: str) -> Timing:
    """Sign in at the operations port on ADDRESS, and open the overview again and again, each time with new figures."""
    with httpx.Client(base_url=f"http://{address}/console", timeout=30) as browser:
        origin = {"origin": f"http://{address}", "sec-fetch-site": "same-origin"}
        browser.post("/sign-in", data={"token": token}, headers=origin)
        _open(browser)  # connects to the stores
        taken = []
        for _ in range(_OPENINGS):
            time.sleep(_PAUSE_SECONDS)
            taken.append(_open(browser))
    return Timing("overview: the page, not cached", *percentiles(taken), 0)


def _open(browser: httpx.Client) -> float:
    began = time.perf_counter()
    page = browser.get("/")
    taken = (time.perf_counter() - began) * 1000
    if page.status_code != httpx.codes.OK or "could not be read" in page.text:
        raise RuntimeError(f"the overview was not shown: {page.status_code}")
    return taken
