"""YAML with line numbers: each value knows its place, and reports an error there if it has the wrong type."""

import yaml

from ratelimit_service.rules_import.findings import Findings, Place

_TAG = "tag:yaml.org,2002:"
_TRUE = {"true", "yes", "on"}
_MAX_SHOWN = 80

_Pairs = list[tuple[yaml.Node, yaml.Node]]


class Value:
    """One value of a document. The methods that read it as a type add an error if it has another type."""

    def __init__(self, node: yaml.Node, document: "Document") -> None:
        self._node = node
        self._document = document
        self.place = Place(document.file, node.start_mark.line + 1)

    @property
    def is_null(self) -> bool:
        """Whether it is null: an empty value, `~` or `null`."""
        return self._node.tag == f"{_TAG}null"

    def text(self, name: str) -> str:
        """The text as written, even if it is a number or a boolean; empty for null."""
        if self.is_null:
            return ""
        if not isinstance(self._node, yaml.ScalarNode):
            self._wrong_type(name, "a string")
            return ""
        return str(self._node.value)

    def boolean(self, name: str) -> bool:
        """Whether it is true. False for null."""
        if self.is_null:
            return False
        if self._node.tag != f"{_TAG}bool":
            self._wrong_type(name, "true or false")
            return False
        return str(self._node.value).lower() in _TRUE

    def number(self, name: str) -> int:
        """The integer. 0 for null."""
        if self.is_null:
            return 0
        if not isinstance(self._node, yaml.ScalarNode) or self._node.tag != f"{_TAG}int":
            self._wrong_type(name, "an integer")
            return 0
        return self._document.number(self._node)

    def items(self, name: str) -> list["Value"]:
        """The values of a list. Empty for null."""
        if self.is_null:
            return []
        if not isinstance(self._node, yaml.SequenceNode):
            self._wrong_type(name, "a list")
            return []
        return [Value(node, self._document) for node in self._node.value]

    def fields(self, name: str) -> dict[str, "Field"]:
        """The fields of a mapping by name, each of which may be given once. Empty for null."""
        if self.is_null:
            return {}
        if not isinstance(self._node, yaml.MappingNode):
            self._wrong_type(name, "a mapping")
            return {}
        merged, own = self._document.pairs(self._node)
        found: dict[str, Field] = {}
        for key, value in own:
            field = Field(value, self._document, key)
            if field.name in found:
                self._document.findings.error(
                    field.place, f"{field.name} is given twice, first in line {found[field.name].place.line}"
                )
            found[field.name] = field
        return {field.name: field for key, value in merged for field in (Field(value, self._document, key),)} | found

    def _wrong_type(self, name: str, wanted: str) -> None:
        if isinstance(self._node, yaml.ScalarNode):
            what = repr(str(self._node.value)[:_MAX_SHOWN])
        else:
            what = "a list" if isinstance(self._node, yaml.SequenceNode) else "a mapping"
        self._document.findings.error(self.place, f"{name} is {what}; it must be {wanted}")


class Field(Value):
    """A named value of a mapping. Its place is that of its name."""

    def __init__(self, node: yaml.Node, document: "Document", key: yaml.Node) -> None:
        super().__init__(node, document)
        self.place = Place(document.file, key.start_mark.line + 1)
        self.name = str(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"


class Document:
    """One file of YAML."""

    def __init__(self, file: str, text: str, findings: Findings) -> None:
        self.file = file
        self.findings = findings
        self._text = text
        self._loader = yaml.SafeLoader("")
        self._pairs: dict[yaml.MappingNode, tuple[_Pairs, _Pairs]] = {}

    def root(self) -> Value | None:
        """The value of the whole file. None, with an error, if it is not a single YAML document."""
        try:
            self._loader = yaml.SafeLoader(self._text)
            node = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.findings.error(Place(self.file, mark.line + 1 if mark else 1), f"not YAML: {error.problem}")
            return None
        except yaml.YAMLError as error:
            self.findings.error(Place(self.file, 1), f"not YAML: {error}")
            return None
        if node is None:
            self.findings.error(Place(self.file, 1), "the file is empty")
            return None
        return Value(node, self)

    def pairs(self, node: yaml.MappingNode) -> tuple[_Pairs, _Pairs]:
        """The keys and values that a mapping merges with `<<`, and its own."""
        if node not in self._pairs:  # merging changes the node, and an alias passes it again
            own = [(key, value) for key, value in node.value if key.tag != f"{_TAG}merge"]
            try:
                self._loader.flatten_mapping(node)
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark or node.start_mark
                self.findings.error(Place(self.file, mark.line + 1), f"not YAML: {error.problem}")
            self._pairs[node] = (node.value[: len(node.value) - len(own)], own)
        return self._pairs[node]

    def number(self, node: yaml.ScalarNode) -> int:
        """An integer in any of YAML's forms."""
        return int(self._loader.construct_yaml_int(node))
