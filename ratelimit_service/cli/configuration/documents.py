"""Documents of configuration: files and folders of YAML or JSON, each document with its `kind`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import typer

from ratelimit_service.bounded_yaml import Node, YamlError, read_documents
from ratelimit_service.cli.configuration.canonical import item_of
from ratelimit_service.cli.configuration.item import Item, Kind
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.cli.message_file import file_name, read_text
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.message_nodes import did_you_mean, line_of

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_MAX_BYTES: Final = 32 * 1024 * 1024
"""Size of a file: the keys of a large installation."""

_MAX_FILES: Final = 10_000


def read_configuration(paths: Sequence[Path]) -> list[Item]:
    """The items that files describe, and all files of folders, in the order of kinds.

    Raises CommandError with the file and line of what is invalid, and of what two documents describe.
    """
    found: dict[str, Item] = {}
    for path in _files(paths):
        for item in _read_file(path):
            before = found.setdefault(item.name, item)
            if before is not item:
                raise CommandError.usage(f"{item.place}: {item.name} is described before, in {before.place}")
    if not found:
        raise CommandError.usage(f"there is no document in {', '.join(map(str, paths))}")
    order = list(Kind)
    return sorted(found.values(), key=lambda item: order.index(item.kind))


def read_one(file: typer.FileText, kind: Kind, name: str) -> Item:
    """The item of this kind and NAME in a file: as `apply` takes it, or a single document without its `kind`.

    If NAME is empty, it is the only one of its kind. Raises CommandError with the line of what is invalid, and if there
    is not one such item.
    """
    path = file_name(file)
    of_kind = [item for item in _items(path, read_text(file, _MAX_BYTES), kind) if item.kind is kind]
    found = [item for item in of_kind if not name or item.name.partition("/")[2] == name]
    if len(found) != 1:
        names = ", ".join(item.name.partition("/")[2] for item in of_kind)
        option = "--plan" if kind is Kind.PLAN else "--domain"
        raise CommandError.usage(
            f"{path}: holds {len(of_kind)} documents of kind {kind}{f': {names}' if names else ''}; name one of them "
            f"with {option}"
        )
    return found[0]


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    count = 0
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if _is_document(one, path)) if path.is_dir() else [path]
        if not inside:
            raise CommandError.usage(f"{path}: no file in it ends with {', '.join(sorted(_SUFFIXES))}")
        count += len(inside)
        if count > _MAX_FILES:
            raise CommandError.usage(f"{path}: there are more than {_MAX_FILES:,} files")
        yield from inside


def _is_document(path: Path, folder: Path) -> bool:
    """Whether a file in FOLDER is read: what is hidden, such as `.git`, is not."""
    inside = path.relative_to(folder).parts
    return path.suffix in _SUFFIXES and not any(part.startswith(".") for part in inside) and path.is_file()


def _read_file(path: Path) -> Iterator[Item]:
    if str(path) == "-":
        yield from _items("standard input", read_text(typer.get_text_stream("stdin"), _MAX_BYTES))
        return
    try:
        with path.open(encoding="utf-8") as file:
            text = read_text(file, _MAX_BYTES)
    except OSError as error:
        raise CommandError.usage(f"cannot read {path}: {error.strerror}") from None
    yield from _items(str(path), text)


def _items(name: str, text: str, default: Kind | None = None) -> Iterator[Item]:
    """The items of a file. DEFAULT is the kind of documents that do not name theirs; None: each has to."""
    try:
        for root in read_documents(text, _MAX_BYTES):
            place = f"{name}, line {root.line}"
            try:
                yield item_of(_kind(root, default), root, place)
            except InvalidArgument as error:
                lines = (
                    f"{name}, line {line_of(root, each.field)}: {each.field}: {each.description}"
                    for each in error.violations
                )
                raise CommandError(Exit.USAGE, *lines) from None
    except YamlError as error:
        raise CommandError.usage(f"{name}, line {error.line}: {error.problem}") from None


def _kind(root: Node, default: Kind | None) -> Kind:
    """The kind of a document, which is taken out of it."""
    if root.kind != "mapping":
        raise YamlError(root.line, f"a document is an object with a `kind`, not a {_described(root)}")
    kinds = ", ".join(Kind)
    for position, (key, value) in enumerate(root.pairs):
        if key.text == "kind":
            del root.pairs[position]
            if value.text in set(Kind):
                return Kind(value.text)
            raise YamlError(
                value.line, f"kind is {value.text[:80]!r}; use one of {kinds}{did_you_mean(value.text, Kind)}"
            )
    if default is not None:
        return default
    raise YamlError(root.line, f"kind is missing; begin the document with `kind: `, and one of {kinds}")


def _described(root: Node) -> str:
    return "list" if root.kind == "list" else "single value"
