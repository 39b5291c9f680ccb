"""Charges limits what those have spent who apply them by themselves, so that checks and grants see it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from ratelimit_service.decision.assignments.debt import ALL, Debt
from ratelimit_service.decision.assignments.pool import Pool
from ratelimit_service.decision.charge import Charge, ChargeResult
from ratelimit_service.decision.ports import BucketStore, PartlyUnavailable, StoreUnavailable

TICK: Final = 0.25
"""Seconds between two rounds of charges."""

MAX_PAYMENTS: Final = 500
"""Charges in one round. Of more, the others come in the next ones."""

_AT_ONCE: Final = 64
"""Charges that are passed to the store together: it has others to serve."""

_FRESH: Final = 1.0
"""Seconds for which what a limit had left is known without another peek."""


class _Payment(NamedTuple):
    pool: Pool
    debt: Debt
    tokens: int


class Payments:
    """Charges what pools owe, evenly over the seconds after it was reported."""

    def __init__(self, buckets: BucketStore, now: Callable[[], float]) -> None:
        self._buckets = buckets
        self._now = now
        self.lowered: set[Pool] = set()
        """Pools of whose limits others spend so much that less may be assigned."""
        self._owing: dict[Pool, None] = {}
        self.charged = 0
        """Tokens charged so far."""
        self.forgotten = 0
        """Tokens so far that were spent and will never be charged."""

    def spend(self, pool: Pool, tokens: int) -> None:
        """Owe so many TOKENS to each limit of POOL."""
        now = self._now()
        for debt in pool.debts:
            forgotten = debt.forgotten
            debt.spend(tokens, now)
            self.forgotten += debt.forgotten - forgotten
        self._owing[pool] = None

    async def pay(self) -> Sequence[Pool]:
        """Charge what is due. Returns the pools that owe nothing any more."""
        now = self._now()
        due: list[_Payment] = []
        for pool in list(self._owing):
            if len(due) >= MAX_PAYMENTS:
                break
            own = [_Payment(pool, debt, tokens) for debt in pool.debts if (tokens := debt.due(now)) > 0]
            if own:
                due += own
                self._owing[pool] = self._owing.pop(pool)  # the others come before it in the next round
        await self._charge(due)
        return self._paid_up()

    async def pay_all(self) -> None:
        """Charge all that is owed."""
        await self._charge(
            [_Payment(pool, debt, debt.owed) for pool in self._owing for debt in pool.debts if debt.owed]
        )

    async def peek(self, pools: Iterable[Pool]) -> None:
        """Find out what limits of these pools have left, of which that has to be known. What is due is charged, too."""
        now = self._now()
        await self._charge(
            [
                _Payment(pool, debt, debt.due(now))
                for pool in pools
                if pool.terms.has_level
                for debt in pool.debts
                if debt.seen is None or now - debt.seen_at > _FRESH or debt.due(now)
            ]
        )

    async def _charge(self, payments: Sequence[_Payment]) -> None:
        for start in range(0, len(payments), _AT_ONCE):
            some = payments[start : start + _AT_ONCE]
            charges = [
                Charge((debt.bucket,), (tokens,), afterwards=True) if tokens else Charge((debt.bucket,), (0,))
                for _, debt, tokens in some
            ]
            results: Sequence[ChargeResult | StoreUnavailable]
            try:
                results = await self._buckets.charge(charges)
            except PartlyUnavailable as error:
                results = error.results
            except StoreUnavailable as error:
                results = [error] * len(some)
            for payment, result in zip(some, results, strict=True):
                if not isinstance(result, StoreUnavailable):
                    self._note(payment, result)
                elif payment.tokens:
                    self._lose(payment)

    def _note(self, payment: _Payment, result: ChargeResult) -> None:
        pool, debt, tokens = payment
        owed, forgotten = debt.owed, debt.forgotten
        keep = debt.pay(tokens, result, self._now())
        forgotten = debt.forgotten - forgotten
        self.forgotten += forgotten
        self.charged += owed - debt.owed - forgotten
        if keep < ALL and debt in pool.debts:
            pool.keep = max(min(pool.keep, keep), 1)
            self.lowered.add(pool)

    def _lose(self, payment: _Payment) -> None:
        forgotten = payment.debt.forgotten
        payment.debt.lose(payment.tokens, self._now())
        self.forgotten += payment.debt.forgotten - forgotten

    def _paid_up(self) -> Sequence[Pool]:
        paid = [pool for pool in self._owing if not any(debt.owed for debt in pool.debts)]
        for pool in paid:
            del self._owing[pool]
        return paid
