"""The log of a module that commands import too. They log nothing, and would wait for what writes a log."""

from typing import Any


class ModuleLog:
    """As `structlog.stdlib.get_logger(MODULE)`, but structlog is imported with the first line.

    It imports what prints in colours, and takes half as long as a command may take to start.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def warning(self, event: str, **values: Any) -> None:  # noqa: ANN401  as structlog has it
        """Log EVENT as a warning."""
        self._logger().warning(event, **values)

    def error(self, event: str, **values: Any) -> None:  # noqa: ANN401  as above
        """Log EVENT as an error."""
        self._logger().error(event, **values)

    def _logger(self) -> Any:  # noqa: ANN401  as above
        import structlog  # noqa: PLC0415  see above

        return structlog.stdlib.get_logger(self._module)
