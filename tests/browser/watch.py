"""What goes wrong on a page without anybody seeing it: errors of scripts, of the policy and of requests."""

from playwright.async_api import ConsoleMessage, Page, Request, Response

_BENIGN = "net::ERR_ABORTED"
"""What a request ends with when its page is left before it was answered."""


class Watch:
    """Collects the problems of one page from its first request on."""

    def __init__(self, page: Page) -> None:
        self.problems: list[str] = []
        self._expected: set[int] = set()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("requestfailed", self._on_failure)
        page.on("response", self._on_response)

    def expect(self, *statuses: int) -> None:
        """Allow responses with these statuses from now on: a test that sends what is invalid gets a 400."""
        self._expected.update(statuses)

    def check(self) -> None:
        """Fail if there was any problem."""
        assert self.problems == []

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not self._is_expected(message.text):
            self.problems.append(f"{message.type}: {message.text}")

    def _is_expected(self, text: str) -> bool:
        # Chromium also logs a response with an error status. Those that are not expected are in `_on_response`.
        return text.startswith("Failed to load resource: the server responded with a status of")

    def _on_failure(self, request: Request) -> None:
        if request.failure != _BENIGN:
            self.problems.append(f"request: {request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self._expected:
            self.problems.append(f"response: {response.request.method} {response.url}: {response.status}")
