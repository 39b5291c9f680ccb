"""A document with line numbers: each value knows its place, and reports an error there if it has the wrong type."""

from ratelimit_service.bounded_yaml import Node, YamlError, read_yaml
from ratelimit_service.rules_import.findings import Findings, Place

_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_MAX_SHOWN = 80


class Value:
    """One value of a document. The methods that read it as a type add an error if it has another type."""

    def __init__(self, node: Node, document: "Document") -> None:
        self._node = node
        self._document = document
        self.place = Place(document.file, node.line)

    @property
    def is_null(self) -> bool:
        """Whether it is null: an empty value, `~` or `null`."""
        return self._node.is_null

    def text(self, name: str) -> str:
        """The text as written, even if it is a number or a boolean; empty for null."""
        if self.is_null:
            return ""
        if self._node.kind != "scalar":
            self._wrong_type(name, "a string")
            return ""
        return self._node.text

    def boolean(self, name: str) -> bool:
        """Whether it is true, as envoyproxy/ratelimit reads it: `yes` and `on` are. False for null."""
        if self.is_null:
            return False
        text = self._node.text.lower()
        if self._node.kind != "scalar" or self._node.quoted or text not in _TRUE | _FALSE:
            self._wrong_type(name, "true or false")
            return False
        return text in _TRUE

    def number(self, name: str) -> int:
        """The integer. 0 for null."""
        if self.is_null:
            return 0
        try:
            value = self._node.value if self._node.kind == "scalar" else None
        except YamlError as error:
            self._document.findings.error(self.place, f"{name}: {error.problem}")
            return 0
        if not isinstance(value, int) or isinstance(value, bool):
            self._wrong_type(name, "an integer")
            return 0
        return value

    def items(self, name: str) -> list["Value"]:
        """The values of a list. Empty for null."""
        if self.is_null:
            return []
        if self._node.kind != "list":
            self._wrong_type(name, "a list")
            return []
        return [Value(node, self._document) for node in self._node.items]

    def fields(self, name: str) -> dict[str, "Field"]:
        """The fields of a mapping by name. Empty for null."""
        if self.is_null:
            return {}
        if self._node.kind != "mapping":
            self._wrong_type(name, "a mapping")
            return {}
        return {key.text: Field(value, self._document, key) for key, value in self._node.pairs}

    def _wrong_type(self, name: str, wanted: str) -> None:
        kind = self._node.kind
        what = repr(self._node.text[:_MAX_SHOWN]) if kind == "scalar" else f"a {kind}"
        self._document.findings.error(self.place, f"{name} is {what}; it must be {wanted}")


class Field(Value):
    """A named value of a mapping. Its place is that of its name."""

    def __init__(self, node: Node, document: "Document", key: Node) -> None:
        super().__init__(node, document)
        self.place = Place(document.file, key.line)
        self.name = key.text


class Document:
    """One file of YAML."""

    def __init__(self, file: str, text: str, findings: Findings) -> None:
        self.file = file
        self.findings = findings
        self._text = text

    def root(self) -> Value | None:
        """The value of the whole file. None, with an error, if it is not a single document within bounds."""
        try:
            node = read_yaml(self._text)
        except YamlError as error:
            self.findings.error(Place(self.file, error.line), error.problem)
            return None
        if node is None:
            self.findings.error(Place(self.file, 1), "the file is empty")
            return None
        return Value(node, self)
