"""Reading the record of who changed what."""

from ratelimit_service.keys.audit import AuditEvent
from ratelimit_service.keys.page import Page, Paging
from ratelimit_service.keys.ports import Transactions
from ratelimit_service.keys.text import check_target


class AuditService:
    """Lists changes. Nothing changes them: they are written by the transactions that they tell of."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def list(self, paging: Paging, *, target: str = "") -> Page[AuditEvent]:
        """Read changes, newest first: all, or those of one target (`keys/<key_id>`, `plans/<name>`).

        Raises InvalidArgument with the name of the argument at fault, and Unavailable when Postgres is away.
        """
        check_target(target)
        count, before = paging.size + 1, paging.number("audit", target)
        async with self._transactions.reading() as work:
            found = await work.audit.list(before=before, count=count, target=target)
        return paging.page(found, [str(event.event_id) for event in found], "audit", target)
