"""A plan while it is edited: the rows of a form, the limits that they describe, and what the change would do."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from ratelimit_service.console import formats
from ratelimit_service.console.forms import Fields
from ratelimit_service.decision.limit import (
    MAX_TOKENS,
    MICRO,
    Algorithm,
    Concurrency,
    Counting,
    Limit,
    Mode,
    Quota,
    TokenBucket,
    Window,
    most_overdraft,
)
from ratelimit_service.decision.record import OnStoreFailure
from ratelimit_service.errors import FieldViolation, InvalidArgument
from ratelimit_service.management.plans import MAX_LIMITS

UNBOUNDED: Final = "unbounded"
BUCKET: Final = "token_bucket"
QUOTA: Final = "quota"
CONCURRENCY: Final = "concurrency"

_UNITS: Final[Mapping[str, int]] = {
    "ms": 1_000,
    "s": MICRO,
    "min": 60 * MICRO,
    "h": 3_600 * MICRO,
    "day": 86_400 * MICRO,
}
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """A limit as the form has it: texts, as they were typed. `kind` is token_bucket, quota or concurrency.

    `overdraft` is empty for none, and may be UNBOUNDED for a quota.
    """

    name: str = ""
    resource: str = "*"
    kind: str = BUCKET
    capacity: str = ""
    refill_tokens: str = ""
    period: str = "1 s"
    amount: str = ""
    window: str = "day"
    max: str = ""
    default_hold: str = "30 s"
    counts: str = "cost"
    overdraft: str = ""
    mode: str = "enforce"

    @classmethod
    def of(cls, limit: Limit) -> "Row":
        """The row of a limit."""
        algorithm = limit.algorithm
        row = cls(
            limit.name,
            limit.resource,
            counts=limit.counts.value,
            overdraft=_write_overdraft(limit),
            mode=limit.mode.value,
        )
        if isinstance(algorithm, TokenBucket):
            period = _write_period(algorithm.refill_period_us)
            return replace(
                row, capacity=f"{algorithm.capacity:,}", refill_tokens=f"{algorithm.refill_tokens:,}", period=period
            )
        if isinstance(algorithm, Concurrency):
            hold = _write_period(algorithm.default_hold_us)
            return replace(row, kind=CONCURRENCY, max=f"{algorithm.max:,}", default_hold=hold)
        return replace(row, kind=QUOTA, amount=f"{algorithm.amount:,}", window=algorithm.window.value)

    def with_known_choices(self) -> "Row":
        """The same, with the default for what a list of the form does not have."""
        choices = {"window": Window, "counts": Counting, "mode": Mode}
        known = {name: {one.value for one in choice} for name, choice in choices.items()} | {
            "kind": {BUCKET, QUOTA, CONCURRENCY}
        }
        return replace(
            self, **{name: _EMPTY[name] for name, values in known.items() if getattr(self, name) not in values}
        )

    def limit(self) -> Limit:
        """The limit that the row describes. Raises InvalidArgument, which names the input."""
        if self.kind == BUCKET:
            algorithm: Algorithm = TokenBucket(
                _tokens("capacity", self.capacity),
                _tokens("refill_tokens", self.refill_tokens),
                _read_period("period", self.period),
            )
        elif self.kind == CONCURRENCY:
            algorithm = Concurrency(_tokens("max", self.max), _read_period("default_hold", self.default_hold))
        else:
            algorithm = Quota(_tokens("amount", self.amount), Window(self.window))
        overdraft = _read_overdraft(self.overdraft, algorithm)
        return Limit(self.name, algorithm, self.resource or "*", Mode(self.mode), Counting(self.counts), overdraft)


_EMPTY: Final[Mapping[str, str]] = asdict(Row())


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan as the form has it."""

    rows: tuple[Row, ...]
    on_store_failure: OnStoreFailure
    description: str

    @classmethod
    def read(cls, form: Fields) -> "Draft":
        """Read the form. What a list of the form does not have is as if it was not chosen."""
        rows = []
        for number in range(MAX_LIMITS + 1):
            prefix = f"l{number}."
            if f"{prefix}name" not in form:
                continue
            row = Row(**{name: form.text(f"{prefix}{name}", default) for name, default in _EMPTY.items()})
            rows.append(row.with_known_choices())
        failure = form.text("on_store_failure")
        known = {one.name for one in OnStoreFailure}
        return cls(
            tuple(rows), OnStoreFailure[failure] if failure in known else OnStoreFailure.LOCAL, form.text("description")
        )

    def added(self, kind: str) -> "Draft":
        """The same with one more row."""
        return replace(self, rows=(*self.rows, Row(kind=kind))[: MAX_LIMITS + 1])

    def without(self, number: int) -> "Draft":
        """The same without a row."""
        return replace(self, rows=tuple(row for at, row in enumerate(self.rows) if at != number))

    def limits(self) -> tuple[Limit, ...]:
        """The limits that the rows describe. Raises InvalidArgument with fields such as `l0.capacity`."""
        limits: list[Limit] = []
        violations: list[FieldViolation] = []
        for number, row in enumerate(self.rows):
            try:
                limits.append(row.limit())
            except InvalidArgument as error:
                violations += [
                    FieldViolation(f"l{number}.{_INPUTS.get(one.field, one.field)}", one.description)
                    for one in error.violations
                ]
        if violations:
            raise InvalidArgument(*violations)
        return tuple(limits)


_INPUTS: Final = {
    "token_bucket.capacity": "capacity",
    "token_bucket.refill_tokens": "refill_tokens",
    "token_bucket.refill_period": "period",
    "quota.amount": "amount",
    "concurrency.max": "max",
    "concurrency.default_hold": "default_hold",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change does to one limit, in a sentence. `is_cut`: it refuses more, so that it has to be confirmed."""

    name: str
    words: str
    is_cut: bool


def effects(before: Sequence[Limit], after: Sequence[Limit]) -> list[Effect]:
    """What changes for callers, limit by limit: cuts by more than half, and what begins to refuse, are cuts."""
    old = {limit.name: limit for limit in before}
    found: list[Effect] = []
    for limit in after:
        was = old.pop(limit.name, None)
        if was is None:
            refuses = limit.mode is Mode.ENFORCE
            found.append(
                Effect(limit.name, "is new" + (" and begins to refuse." if refuses else ", in shadow."), refuses)
            )
        elif was.mode is Mode.SHADOW and limit.mode is Mode.ENFORCE:
            found.append(Effect(limit.name, "begins to refuse. It was in shadow.", is_cut=True))
        elif was.mode is Mode.ENFORCE and limit.mode is Mode.SHADOW:
            found.append(Effect(limit.name, "refuses nothing any more: it only reports.", is_cut=False))
        elif was.counts is not limit.counts:
            how = "calls, whatever they cost" if limit.counts is Counting.CALLS else "what calls cost"
            found.append(Effect(limit.name, f"counts {how}.", limit.mode is Mode.ENFORCE))
        elif limit.mode is Mode.ENFORCE and (cut := _cut(was, limit)) > 0:
            half = ", more than half" if cut > _HALF else ""
            found.append(Effect(limit.name, f"is cut by {formats.percent(cut)}{half}.", is_cut=cut > _HALF))
        elif was.resource != limit.resource:
            found.append(
                Effect(limit.name, f"is for {limit.resource} instead of {was.resource}.", limit.mode is Mode.ENFORCE)
            )
    found += [Effect(name, "is removed: nothing is refused by it any more.", is_cut=False) for name in old]
    return found


def _cut(was: Limit, limit: Limit) -> float:
    """The largest share by which an amount or a rate is lowered; 1 when the algorithm is another one. 0 for no cut."""
    old, new = was.algorithm, limit.algorithm
    if isinstance(old, TokenBucket) and isinstance(new, TokenBucket):
        rates = old.refill_tokens / old.refill_period_us, new.refill_tokens / new.refill_period_us
        return max(0.0, 1 - new.capacity / old.capacity, 1 - rates[1] / rates[0])
    if isinstance(old, Quota) and isinstance(new, Quota) and old.window is new.window:
        return max(0.0, 1 - new.amount / old.amount)
    if isinstance(old, Concurrency) and isinstance(new, Concurrency):
        unsettled = (new.max / new.default_hold_us) / (old.max / old.default_hold_us)
        return max(0.0, 1 - new.max / old.max, 1 - unsettled)
    return 1.0


def _tokens(field: str, text: str) -> int:
    plain = text.replace(",", "").replace(" ", "")
    if not (plain.isascii() and plain.isdigit()) or len(plain) > 19:  # noqa: PLR2004  digits of 64 bits
        raise InvalidArgument.of(field, f"is not a whole number; use 1 to {MAX_TOKENS:,}")
    return int(plain)


def _read_overdraft(text: str, algorithm: Algorithm) -> int | None:
    if not text.strip():
        return None
    if text.strip() != UNBOUNDED:
        return _tokens("overdraft", text)
    if not isinstance(algorithm, Quota):
        raise InvalidArgument.of("overdraft", "is unbounded, which is for a quota only; write a number of tokens")
    return most_overdraft(algorithm)


def _write_overdraft(limit: Limit) -> str:
    if limit.overdraft is None:
        return ""
    return UNBOUNDED if limit.is_unbounded else f"{limit.overdraft:,}"


def _read_period(field: str, text: str) -> int:
    number, _, unit = text.strip().replace("\u00a0", " ").partition(" ")
    if not unit:  # "500ms"
        digits = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
        number, unit = digits, text.strip()[len(digits) :] or "s"
    unit = unit.strip().removesuffix("s") if unit.strip() not in {"s", "ms"} else unit.strip()
    try:
        return round(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise InvalidArgument.of(field, "is no duration; write 1 s, 500 ms, 5 min, 1 h or 1 day") from None


def _write_period(period_us: int) -> str:
    for unit in ("day", "h", "min", "s"):
        if period_us % _UNITS[unit] == 0:
            return f"{period_us // _UNITS[unit]:,} {unit}"
    return f"{period_us / 1_000:g} ms"
