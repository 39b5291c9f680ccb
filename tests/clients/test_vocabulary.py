"""The tables of clients/README.md are what the code of the four clients exports, with one name for each concept."""

import re
from collections.abc import Iterable

import pytest

from clients import java_api, public_api
from clients.conftest import ROOT
from clients.contract import FOLDER
from clients.public_api import Defaults

_CLIENTS = ROOT / "clients"
_APIS = {
    "Python": public_api.python(),
    "Go": public_api.go(),
    "TypeScript": public_api.typescript(),
    "Java": java_api.java(),
}
_LANGUAGES = tuple(_APIS)

Row = dict[str, str]


def _rows(lines: Iterable[str]) -> list[Row]:
    """The rows of a table by its column headers."""
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(header, row, strict=True)) for row in rows]


def _table(heading: str) -> list[Row]:
    """The table of clients/README.md below a heading."""
    section = (_CLIENTS / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return _rows(section.splitlines())


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _plain(name: str) -> str:
    """A name without its language's convention: `key_id`, `KeyID` and `keyId` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _concept(name: str) -> str:
    """An exported name without what its language adds: the name of the package, which Go has apart, and `Async`.

    An error is an exception in Java.
    """
    return _plain(name).removeprefix("async").removeprefix("ratelimit").removesuffix("s").replace("exception", "error")


def _members(owner: str, names: Iterable[str]) -> set[str]:
    """Members without the name of their type, which values have where they share a scope: `REASON_UNSPECIFIED`."""
    return {_plain(name).removeprefix(_concept(owner)) or _plain(name) for name in names}


def _value(default: str) -> str:
    """A default without how a language writes it: `10_000` and `10,000`, `60 s` and `60000 ms`."""
    value = re.sub(r"(?<=\d)[,_](?=\d)", "", default.strip("`"))
    if seconds := re.fullmatch(r"(\d+) s", value):
        return f"{int(seconds[1]) * 1000} ms"
    return _plain(value) if re.fullmatch(r"\w+", value) else value


def _values(defaults: Defaults) -> Defaults:
    return {name: _value(default) for name, default in defaults.items()}


@pytest.mark.parametrize("language", _LANGUAGES)
def test_the_vocabulary_is_what_the_code_exports(language: str) -> None:
    """The table has every exported name of a client with all its members, and no other."""
    expected: dict[str, set[str]] = {}
    for row in _table("Vocabulary"):
        for name in _quoted(row[language]):
            owner, _, member = name.rpartition(".")
            if owner in expected:
                expected[owner] |= _members(owner, [member])
            elif not name.endswith("()"):
                expected[name] = _members(name, _quoted(row["members"]))
    assert {name: _members(name, members) for name, members in _APIS[language].names.items()} == expected


def test_a_concept_has_one_name() -> None:
    """Names in one row differ only by convention, unless they follow a framework, in a module of their own."""
    types = {name for api in _APIS.values() for name in api.names if "." not in name}
    for row in _table("Vocabulary"):
        names = {name for language in _LANGUAGES for name in _quoted(row[language]) if not name.endswith("()")}
        if all(name.split(".")[0] in types for name in names):
            assert len({tuple(map(_concept, name.split("."))) for name in names}) == 1, row


@pytest.mark.parametrize("language", _LANGUAGES)
def test_a_request_has_the_same_fields(language: str) -> None:
    """A check takes the same, be it arguments or a type."""
    (row,) = (row for row in _table("Vocabulary") if row["concept"] == "request")
    assert set(map(_plain, _APIS[language].request)) == set(map(_plain, _quoted(row["members"])))


@pytest.mark.parametrize("language", _LANGUAGES)
def test_the_options_are_those_of_the_code(language: str) -> None:
    """The table has every option of a client with its default, and no other."""
    expected = {}
    for row in _table("Options"):
        defaults = row["default"].split(", ")  # one for all languages, or one for each
        for name in _quoted(row[language]):
            expected[name] = _value(defaults[_LANGUAGES.index(language) if len(defaults) > 1 else 0])
    assert _values(_APIS[language].options) == expected


@pytest.mark.parametrize("language", _LANGUAGES)
def test_the_middleware_options_are_those_of_the_code(language: str) -> None:
    """The table has every option of the middleware and of the interceptors with its default, and no other."""
    api = _APIS[language]
    for options, column in ((api.http_options, "default, HTTP"), (api.grpc_options, "default, gRPC")):
        if options or column == "default, HTTP":
            rows = [(_quoted(row[language]), row[column]) for row in _table("Middleware options")]
            assert _values(options) == {name: _value(default) for names, default in rows for name in names}


@pytest.mark.parametrize("heading", ["Options", "Middleware options"])
def test_an_option_has_one_name(heading: str) -> None:
    """The names of an option differ only by convention: `With` in Go, `Ms` for durations in TypeScript."""
    for row in _table(heading):
        python, go, typescript, java = (_plain("".join(_quoted(row[language]))) for language in _LANGUAGES)
        if python:
            others = (go, typescript.removesuffix("ms"), java)
            assert others == (f"with{python}", python, python)


def test_the_contract_has_the_same_options() -> None:
    """The contract's options, by which the cases name them, are those of the clients, and so are the defaults."""
    section = (FOLDER / "README.md").read_text().split("**Options** and their defaults:\n\n")[1].split("\n\n")[0]
    contract = {}
    for row in _rows(section.splitlines()):
        (name,) = _quoted(row["option"])
        unit = " ms" if name.endswith("_ms") else ""
        contract[name.removesuffix("_ms")] = _value(row["default"] + unit)
    code = _values(_APIS["Python"].options)
    elsewhere = [_quoted(row["Go"])[0] for row in _table("Options") if not _quoted(row["Python"])]
    code |= {name: contract[name] for name in contract if f"with{_plain(name)}" in map(_plain, elsewhere)}
    assert contract.pop("clock") in code.pop("clock")
    assert contract.pop("logger") == "the language's usual one"
    assert code.pop("logger") == "ratelimitclient"
    assert contract == code


def test_the_readmes_have_the_same_sections() -> None:
    """The README of each client has the same sections in the same order."""
    sections = [
        re.findall(r"^## (.+)$", (_CLIENTS / language.lower() / "README.md").read_text(), re.MULTILINE)
        for language in _LANGUAGES
    ]
    assert sections[0] != []
    assert [other for other in sections if other != sections[0]] == []
