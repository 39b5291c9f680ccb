"""Documents of the console: what changed between two of them."""

import time

from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.console.documents import difference
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importer import import_files, to_quota

LINES = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(LINES, LINES)
def test_a_difference_makes_one_document_of_the_other(old: list[str], new: list[str]) -> None:
    """Removed lines are those of the old document, all others those of the new one, in order, with their numbers."""
    lines = difference("\n".join(old), "\n".join(new))
    assert (lines == []) == (old == new)
    for line in lines:
        if line.kind in {"same", "plus"}:
            assert new[line.number - 1] == line.text
        elif line.kind == "minus":
            assert old[line.number - 1] == line.text
    shown = {line.number for line in lines if line.kind in {"same", "plus"}}
    changed = {number for number, line in enumerate(new, start=1) if line not in old}
    assert changed <= shown
    assert [line.number for line in lines if line.kind in {"same", "plus"}] == sorted(shown)


def test_large_documents_are_compared_in_a_moment() -> None:
    """A domain of a thousand rules, changed in every rule, takes no longer than it takes to show it."""
    old, new = (
        "\n".join(f"- key: k{n}\n  {m}: {n % 7 + m}" for n in range(10_000) for m in (1, shift)) for shift in (2, 3)
    )
    start = time.process_time()
    assert difference(old, new)
    assert difference("\n".join(["a", "b"] * 10_000), "\n".join(["b", "c"] * 10_000))
    assert time.process_time() - start < 10


def test_an_import_of_another_kind_of_file_ends_in_a_moment() -> None:
    """Tens of thousands of lines that are wrong are reported without comparing each with all before it."""
    findings = Findings()
    start = time.process_time()
    import_files([("f", "domain: d\n" + "".join(f"k{n}: 1\n" for n in range(45_000)))], to_quota, findings)
    assert time.process_time() - start < 10
    assert len(findings.all) == 45_000
