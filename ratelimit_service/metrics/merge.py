"""Adding up the files of all processes, quickly also with thousands of series: a scrape takes the CPU from calls.

The files are `prometheus_client`'s. Their names say what is in them (`counter_PID.db`, `gauge_livemax_PID.db`), and an
entry, which is a key and a value, keeps its place. So what the keys of a file mean is worked out once. A scrape reads
all its values with one call, and compares the keys with those that it knows, since another file may have come instead.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct, unpack_from
from typing import Final, NamedTuple

_SUFFIX: Final = ".db"
_HEADER: Final = 8
"""Bytes before the first entry: how many bytes of the file are used, in four, and padding."""

_EXTREMES: Final = {"livemax": max, "livemin": min}
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Series(NamedTuple):
    """What one number is of. LABELS are without `le`, which is `bound`: None for what is no bucket of a histogram."""

    family: str
    kind: str
    meaning: str
    name: str
    labels: tuple[tuple[str, str], ...]
    bound: float | None


class _Group(NamedTuple):
    """The lines of one histogram: how each begins, and the number that it shows."""

    buckets: Sequence[tuple[str, int]]
    sum_of_buckets: str


class _Family(NamedTuple):
    """The lines of one metric."""

    head: str
    lines: Sequence[tuple[str, int]]
    groups: Sequence[_Group]


class _Layout:
    """Where the keys and values of a file are."""

    def __init__(self, data: bytes, used: int) -> None:
        """Of DATA, of which so many bytes are USED. Raises ValueError if that is no file of `prometheus_client`."""
        keys, parts, at = [], [f"={_HEADER}x"], _HEADER
        while at < used:
            (length,) = unpack_from("=i", data, at)
            padding = 8 - (length + 4) % 8
            end = at + 4 + length + padding + 16
            if length < 0 or end > min(used, len(data)):
                raise ValueError(f"the entry at byte {at} of a file of metrics does not end within it")
            keys.append(data[at + 4 : at + 4 + length])
            parts.append(f"4x{length}s{padding}xd8x")
            at = end
        self.used = used
        self.keys = tuple(keys)
        self.series: Sequence[int] = ()
        """The numbers of the series that the values are of."""
        self._struct = Struct("".join(parts))

    def values(self, data: bytes) -> Sequence[float] | None:
        """The values in DATA, None if it has other keys."""
        entries = self._struct.unpack_from(data)
        return entries[1::2] if entries[::2] == self.keys else None


class MergedFiles:
    """The metrics in the files of a folder, added up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._layouts: dict[str, _Layout] = {}
        self._numbers: dict[_Series, int] = {}
        self._by_key: dict[tuple[str, bytes], int] = {}
        self._families: Sequence[_Family] = ()
        self._arranged = 0

    def text(self) -> str:
        """All metrics in Prometheus' text format, in the order of their names. Not for several threads at a time."""
        totals: dict[int, float] = {}
        layouts: dict[str, _Layout] = {}
        for file in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                data = file.read_bytes()
            except FileNotFoundError:  # a gauge's, whose process has just ended
                continue
            name = file.name.removesuffix(_SUFFIX)
            layouts[name], values = self._read(name, data)
            _add(totals, layouts[name].series, values, name)
        self._layouts = layouts
        if len(self._numbers) > self._arranged:
            self._families = tuple(_arrange(self._numbers))
            self._arranged = len(self._numbers)
        return "".join(_lines(self._families, totals))

    def _read(self, name: str, data: bytes) -> tuple[_Layout, Sequence[float]]:
        (used,) = unpack_from("=i", data)
        layout = self._layouts.get(name)
        values = layout.values(data) if layout is not None and layout.used == used else None
        if layout is None or values is None:
            kind = name.partition("_")[0]
            layout = _Layout(data, used)
            layout.series = [self._number(kind, key) for key in layout.keys]
            values = layout.values(data) or ()
        return layout, values

    def _number(self, kind: str, key: bytes) -> int:
        """The number of the series of a KEY, which is new if it is the first of it."""
        number = self._by_key.get((kind, key))
        if number is None:
            family, name, labels, meaning = json.loads(key)
            bound = float(labels.pop("le")) if "le" in labels else None
            series = _Series(family, kind, meaning, name, tuple(sorted(labels.items())), bound)
            number = self._by_key[kind, key] = self._numbers.setdefault(series, len(self._numbers))
        return number


def _add(totals: dict[int, float], series: Sequence[int], values: Sequence[float], name: str) -> None:
    """Add what the file NAME has to what others had."""
    parts = name.split("_")
    extreme = _EXTREMES.get(parts[1]) if parts[0] == "gauge" else None
    if extreme is None:
        for number, value in zip(series, values, strict=True):
            totals[number] = totals.get(number, 0.0) + value
    else:
        for number, value in zip(series, values, strict=True):
            totals[number] = extreme(totals.get(number, value), value)


def _arrange(numbers: dict[_Series, int]) -> Iterator[_Family]:
    """The lines of all series, by metric."""
    families: dict[tuple[str, str, str], list[_Series]] = {}
    for series in sorted(numbers, key=lambda series: (series.family, series.name, series.labels, series.bound or 0.0)):
        families.setdefault(series[:3], []).append(series)
    for (family, kind, meaning), members in families.items():
        shown = f"{family}_total" if kind == "counter" else family
        escaped = meaning.replace("\\", r"\\").replace("\n", r"\n")
        buckets: dict[tuple[tuple[str, str], ...], list[tuple[str, int]]] = {}
        lines = []
        for series in members:
            if series.bound is None:
                lines.append((_start(series.name, series.labels), numbers[series]))
            else:
                labels = (*series.labels, ("le", "+Inf" if series.bound == float("inf") else str(series.bound)))
                buckets.setdefault(series.labels, []).append((_start(series.name, labels), numbers[series]))
        groups = [_Group(each, _start(f"{family}_count", labels)) for labels, each in buckets.items()]
        yield _Family(f"# HELP {shown} {escaped}\n# TYPE {shown} {kind}\n", lines, groups)


def _start(name: str, labels: Sequence[tuple[str, str]]) -> str:
    """How the line of a series begins."""
    inside = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sorted(labels))
    return f"{name}{{{inside}}} " if inside else f"{name} "


def _lines(families: Sequence[_Family], totals: dict[int, float]) -> Iterator[str]:
    """The lines of the series that are in TOTALS; those of processes that have ended are not."""
    for head, lines, groups in families:
        shown = [f"{start}{totals[number]!r}\n" for start, number in lines if number in totals]
        for buckets, sum_of_buckets in groups:
            present = [(start, totals[number]) for start, number in buckets if number in totals]
            total = 0.0
            for start, value in present:
                total += value
                shown.append(f"{start}{total!r}\n")
            if present:
                shown.append(f"{sum_of_buckets}{total!r}\n")
        if shown:
            yield head
            yield from shown
