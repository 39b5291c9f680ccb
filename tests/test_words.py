"""One vocabulary, the field's: words that this project once used in a sense of its own do not come back."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PRIVATE_PARTS = frozenset(
    re.findall(
        r"\w+",
        """door doors weigh weighs weighed weighing judge judges judged judging foresee foresees foreseen told untold
        tell tells telling said lane lanes flight flights depart departs departure land lands landed crash crashes
        preparation preparations recent follower followers look looks looked looking""",
    )
)
"""Parts of identifiers. For each the field has another: transport, evaluate, decide, preview, report, batcher, ..."""

PREFIXES = frozenset({"MOST", "LARGEST", "LONGEST", "LEAST", "SHORTEST"})
"""First parts of constants, which begin with MAX or MIN."""

PROSE = re.compile(
    r"\bdoors?\b|\bweigh(s|ed|ing)?\b|\bjudg(e|es|ed|ing)\b|\bforesee(s|n)?\b|\b(un)?told\b|(?<!\.)\btell(s|ing)?\b|\bsaid\b"
    r"|\blanes?\b|\b(a|the) flight\b|\bdeparts?\b|\bpreparations?\b|\bfollowers?\b"
    r"|\b(give|gives|giving|given|gave) back\b|\bgiv(es|en|ing)? (it|them|tokens|hits|something|nothing) back\b"
    r"|\b(a|one|another|by|only|next) looks?\b|\blook(s|ed|ing)? at\b"
    r"|is asked to go|[Ll]east level logged|tells none but|others came first|somebody else was faster|is not read\b"
    r"|[Tt]he token to show|is at fault|a fault of ours",
)
"""The same words, and phrases, in prose."""

EXCEPTIONS = {
    "CHANGELOG.md": "names what was renamed, old name beside new",
    "tests/test_words.py": "lists the words",
}
"""Files that may contain such words, each with the reason."""

LIBRARY_NAMES = {"tell"}
"""Names that a library chose: a file's `tell`."""

SOURCES = {".py", ".lua", ".proto", ".md", ".toml", ".yaml", ".yml", ".go", ".ts", ".js", ".sh", ".json", ""}
GENERATED = re.compile(
    r"(^|/)(_gen|gen|node_modules)/|\.pb\.go$|_pb2?\.|package-lock\.json$|go\.sum$|^LICENSE$|/LICENSE$"
)


def sources() -> list[Path]:
    """Every file of ours that a person reads."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [
        ROOT / name
        for name in listed.split("\0")
        if Path(name).suffix in SOURCES
        and not GENERATED.search(name)
        and name not in EXCEPTIONS
        and (ROOT / name).is_file()
    ]


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """The identifiers in a file, with their lines: exactly for Python, outside of comments and texts elsewhere."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string
    elif path.suffix in {".lua", ".proto", ".go", ".ts", ".js"}:
        for number, line in enumerate(text.splitlines(), start=1):
            code = re.sub(r"//.*|--.*|\"[^\"]*\"|'[^']*'|`[^`]*`|^\s*/?\*.*", "", line)
            yield from ((number, name) for name in re.findall(r"[A-Za-z_]\w*", code))


def parts(name: str) -> list[str]:
    """`_MAX_perCall` is MAX, per, Call."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)


@cache
def is_private(name: str) -> bool:
    """Whether an identifier contains a private word."""
    words = parts(name) if name not in LIBRARY_NAMES else []
    lower = [word.lower() for word in words]
    allowed = {"flight"} if "in" in lower else set()
    gives_back = bool({"give", "given", "gave"}.intersection(lower)) and "back" in lower
    return bool(words) and (words[0] in PREFIXES or gives_back or bool(PRIVATE_PARTS.intersection(lower) - allowed))


def test_no_identifier_has_a_private_word() -> None:
    """Names of code, settings, metrics and protos have the field's words."""
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources()
        for line, name in identifiers(path)
        if is_private(name)
    }
    assert sorted(found) == []


def test_no_prose_has_a_private_word() -> None:
    """Comments, docstrings, messages, help and documents have the field's words."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in PROSE.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("name", "private"),
    [
        ("door_name", True),
        ("CacheFollower", True),
        ("LeaseHolder", False),
        ("_MOST_KEYS", True),
        ("give_back", True),
        ("in_flight", False),
        ("lookup", False),
        ("MAX_KEYS", False),
    ],
)
def test_the_check_itself(name: str, private: bool) -> None:
    """It finds what it is to find, and nothing else."""
    assert is_private(name) is private


def test_every_exception_is_needed() -> None:
    """A file that has no such word any more is no exception."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in EXCEPTIONS}
    assert [name for name, text in texts.items() if not PROSE.search(text)] == []
