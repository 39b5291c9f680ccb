"""YAML with its lines: each value knows where it stands, and says there what is wrong with it."""

import yaml

from ratelimit_service.rules_import.findings import Findings, Place

_TAG = "tag:yaml.org,2002:"
_TRUE = {"true", "yes", "on"}
_MAX_SHOWN = 80

_Pairs = list[tuple[yaml.Node, yaml.Node]]


class Value:
    """One value of a document. The methods that read it as something add an error when it is something else."""

    def __init__(self, node: yaml.Node, reader: "Document") -> None:
        self._node = node
        self._reader = reader
        self.place = Place(reader.file, node.start_mark.line + 1)

    @property
    def is_null(self) -> bool:
        """Whether there is nothing: an empty value, `~` or `null`."""
        return self._node.tag == f"{_TAG}null"

    def text(self, name: str) -> str:
        """The text as it is written, be it a number or a boolean; empty for null."""
        if self.is_null:
            return ""
        if not isinstance(self._node, yaml.ScalarNode):
            self._wrong(name, "a text")
            return ""
        return str(self._node.value)

    def truth(self, name: str) -> bool:
        """Whether it says true. False for null."""
        if self.is_null:
            return False
        if self._node.tag != f"{_TAG}bool":
            self._wrong(name, "true or false")
            return False
        return str(self._node.value).lower() in _TRUE

    def number(self, name: str) -> int:
        """The whole number. 0 for null."""
        if self.is_null:
            return 0
        if not isinstance(self._node, yaml.ScalarNode) or self._node.tag != f"{_TAG}int":
            self._wrong(name, "a whole number")
            return 0
        return self._reader.number(self._node)

    def items(self, name: str) -> list["Value"]:
        """The values of a list. None for null."""
        if self.is_null:
            return []
        if not isinstance(self._node, yaml.SequenceNode):
            self._wrong(name, "a list")
            return []
        return [Value(node, self._reader) for node in self._node.value]

    def fields(self, name: str) -> dict[str, "Field"]:
        """The fields of a mapping by their names, each of which may be given once. None for null."""
        if self.is_null:
            return {}
        if not isinstance(self._node, yaml.MappingNode):
            self._wrong(name, "a mapping")
            return {}
        merged, own = self._reader.pairs(self._node)
        found: dict[str, Field] = {}
        for key, value in own:
            field = Field(value, self._reader, key)
            if field.name in found:
                self._reader.findings.error(
                    field.place, f"{field.name} is given twice, first in line {found[field.name].place.line}"
                )
            found[field.name] = field
        return {field.name: field for key, value in merged for field in (Field(value, self._reader, key),)} | found

    def _wrong(self, name: str, wanted: str) -> None:
        if isinstance(self._node, yaml.ScalarNode):
            what = repr(str(self._node.value)[:_MAX_SHOWN])
        else:
            what = "a list" if isinstance(self._node, yaml.SequenceNode) else "a mapping"
        self._reader.findings.error(self.place, f"{name} is {what}; it must be {wanted}")


class Field(Value):
    """A named value of a mapping. Its place is that of its name."""

    def __init__(self, node: yaml.Node, reader: "Document", key: yaml.Node) -> None:
        super().__init__(node, reader)
        self.place = Place(reader.file, key.start_mark.line + 1)
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
        """The value of the whole file. None, with an error, when it is not one document of YAML."""
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
        if node not in self._pairs:  # merging changes the node, and an alias brings it here again
            own = [(key, value) for key, value in node.value if key.tag != f"{_TAG}merge"]
            try:
                self._loader.flatten_mapping(node)
            except yaml.MarkedYAMLError as error:
                mark = error.problem_mark or node.start_mark
                self.findings.error(Place(self.file, mark.line + 1), f"not YAML: {error.problem}")
            self._pairs[node] = (node.value[: len(node.value) - len(own)], own)
        return self._pairs[node]

    def number(self, node: yaml.ScalarNode) -> int:
        """A whole number in any of YAML's forms."""
        return int(self._loader.construct_yaml_int(node))
