"""The stores of a development server."""

from pathlib import Path
from types import TracebackType
from typing import Self

from ratelimit_service.devstores.postgres import EmbeddedPostgres
from ratelimit_service.devstores.valkey import EmbeddedValkey


class DevStores:
    """A PostgreSQL and a Valkey with their state in `<data dir>/postgres` and `<data dir>/valkey`.

    They run while the block lasts. Enter it in the main thread: Valkey ends with the thread that started it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._postgres = EmbeddedPostgres(data_dir / "postgres")
        self._valkey = EmbeddedValkey(data_dir / "valkey")

    @property
    def database_url(self) -> str:
        """`postgresql://...`, with its password."""
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """`redis://...`."""
        return self._valkey.url

    def __enter__(self) -> Self:
        """Start both. If one fails, stops both and raises EmbeddedPostgresError or EmbeddedValkeyError."""
        try:
            self._postgres.start()
            self._valkey.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop both. Their state stays."""
        self._stop()

    def _stop(self) -> None:
        try:
            self._valkey.stop()
        finally:
            self._postgres.stop()
