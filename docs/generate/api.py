"""The reference of the API, from the protos: a page for each file of `ratelimit.v1`, with the comments in it."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from docs.generate.markdown import cell, prose

_PROTOS: Final = Path(__file__).resolve().parent.parent.parent / "protos"
_PACKAGE: Final = "ratelimit.v1"
_FOLDER: Final = "reference/api"
_REASONS: Final = ".ratelimit.v1.ErrorReason"
_INDEX: Final = """# API

The protos of `ratelimit.v1`, file by file, with every field's units and bounds. They only ever grow. The files are in
`protos/ratelimit/v1/`, and a server has them too, by reflection:
`grpcurl -plaintext localhost:50051 describe ratelimit.v1.RateLimitService`. Who may call what is a
[table](../../security.md#who-is-trusted-with-what); errors have [a page for each reason](../../errors/README.md).

Beside them servers speak Envoy's rate limit protocol (`envoy.service.ratelimit.v3`), its authorization protocol
(`envoy.service.auth.v3`) and its rate limit quota protocol (`envoy.service.rate_limit_quota.v3`), whose reference is
Envoy's ([how to use them](../../../deploy/envoy/README.md)), and `grpc.health.v1` and `grpc.reflection`.

In JSON, as grpcurl reads and prints it, fields have the names that they have here, a duration is `"3600s"`, a time
`"2027-01-31T12:00:00Z"`, and a field mask `"plan,labels"`.

| service | methods |
|---|---|
{services}

| file | what is in it |
|---|---|
{files}
"""

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE, _FILE_SYNTAX = 4, 5, 6, 12
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE = 2
_SERVICE_METHOD = 2

_Path = tuple[int, ...]
_SCALARS: Final = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


def pages() -> dict[str, str]:
    """A page for each file, and the index."""
    files = [file for file in _descriptors() if file.package == _PACKAGE]
    homes = {name: Path(file.name).stem for file in files for name in _type_names(file)}
    written = {f"{_FOLDER}/{Path(file.name).stem}.md": _Page(file, homes).text() for file in files}
    return {f"{_FOLDER}/README.md": _index(files), **written}


def _descriptors() -> Sequence[FileDescriptorProto]:
    """The files of ours in the order of their names, with comments."""
    names = sorted(path.relative_to(_PROTOS).as_posix() for path in (_PROTOS / "ratelimit").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        includes = [f"--proto_path={_PROTOS}", f"--proto_path={Path(protoc.__file__).parent / '_proto'}"]
        options = ["--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *includes, *options, *names]) != 0:
            raise SystemExit("protoc failed: see above")
        return FileDescriptorSet.FromString(out.read_bytes()).file


def _type_names(file: FileDescriptorProto) -> Iterator[str]:
    """The full names of all messages and enums, with a dot before."""

    def below(message: DescriptorProto, outer: str) -> Iterator[str]:
        name = f"{outer}.{message.name}"
        yield name
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)
        for nested in message.nested_type:
            yield from below(nested, name)

    for message in file.message_type:
        yield from below(message, f".{file.package}")
    yield from (f".{file.package}.{enum.name}" for enum in file.enum_type)


def _index(files: Sequence[FileDescriptorProto]) -> str:
    services = [
        f"| [{service.name}]({Path(file.name).stem}.md#{service.name.lower()}) | "
        f"{', '.join(f'[{m.name}]({Path(file.name).stem}.md#{m.name.lower()})' for m in service.method)} |"
        for file in files
        for service in file.service
    ]
    listed = [
        f"| [{Path(file.name).name}]({Path(file.name).stem}.md) | {cell(_comments(file)[_FILE_SYNTAX,])} |"
        for file in files
    ]
    return _INDEX.format(services="\n".join(services), files="\n".join(listed))


def _comments(file: FileDescriptorProto) -> dict[_Path, str]:
    """The comments before each part of FILE, by the part's path, without the blank after each `//`."""
    return {
        tuple(location.path): "\n".join(
            line.removeprefix(" ") for line in location.leading_comments.strip().splitlines()
        )
        for location in file.source_code_info.location
        if location.leading_comments
    }


class _Page:
    """The page of a file. HOMES: in which page each type is."""

    def __init__(self, file: FileDescriptorProto, homes: dict[str, str]) -> None:
        self._file = file
        self._homes = homes
        self._here = Path(file.name).stem
        self._comments = _comments(file)

    def text(self) -> str:
        """All of it."""
        file = self._file
        parts = [f"# {Path(file.name).name}", prose(self._comments[_FILE_SYNTAX,])]
        for number, service in enumerate(file.service):
            parts += self._service(service, (_FILE_SERVICE, number))
        for number, message in enumerate(file.message_type):
            parts += self._message(message, f".{file.package}", (_FILE_MESSAGE, number))
        for number, enum in enumerate(file.enum_type):
            parts += self._enum(enum, f".{file.package}", (_FILE_ENUM, number))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _service(self, service: ServiceDescriptorProto, path: _Path) -> Iterator[str]:
        yield f"## {service.name}"
        yield prose(self._comments.get(path, ""))
        for number, method in enumerate(service.method):
            sent = ("stream of " if method.client_streaming else "") + self._link(method.input_type)
            returned = ("stream of " if method.server_streaming else "") + self._link(method.output_type)
            yield f"### {method.name}"
            yield f"{sent} → {returned}"
            yield prose(self._comments.get((*path, _SERVICE_METHOD, number), ""))

    def _message(self, message: DescriptorProto, outer: str, path: _Path) -> Iterator[str]:
        name = f"{outer}.{message.name}"
        yield f"## {self._short(name)}"
        yield prose(self._comments.get(path, ""))
        for number, group in enumerate(message.oneof_decl):
            if comment := self._comments.get((*path, _MESSAGE_ONEOF, number)):
                yield prose(f"`{group.name}`: {comment}")
        rows = [
            f"| `{field.name}` | {self._type(message, name, field)} | {self._meaning(message, field, path, number)} |"
            for number, field in enumerate(message.field)
        ]
        yield "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) if rows else "It has no fields."
        for number, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, name, (*path, _MESSAGE_NESTED, number))
        for number, enum in enumerate(message.enum_type):
            yield from self._enum(enum, name, (*path, _MESSAGE_ENUM, number))

    def _enum(self, enum: EnumDescriptorProto, outer: str, path: _Path) -> Iterator[str]:
        name = f"{outer}.{enum.name}"
        yield f"## {self._short(name)}"
        yield prose(self._comments.get(path, ""))
        rows = []
        for number, value in enumerate(enum.value):
            shown = f"`{value.name}`"
            if name == _REASONS and value.number:
                shown = f"[{shown}](../../errors/{value.name}.md)"
            meaning = cell(self._comments.get((*path, _ENUM_VALUE, number), ""))
            rows.append(f"| {shown} | {value.number} | {meaning} |")
        yield "\n".join(["| value | number | meaning |", "|---|---|---|", *rows])

    def _meaning(self, message: DescriptorProto, field: FieldDescriptorProto, path: _Path, number: int) -> str:
        """The comment of a field, and of which alternatives it is one: by their names, if it is one of two."""
        meaning = self._comments.get((*path, _MESSAGE_FIELD, number), "")
        if field.HasField("oneof_index") and not field.proto3_optional:
            group = message.oneof_decl[field.oneof_index].name
            others = [
                f"`{other.name}`"
                for other in message.field
                if other.HasField("oneof_index") and other.oneof_index == field.oneof_index and other.name != field.name
            ]
            if others:
                meaning = f"{meaning}\n\nOne of `{group}`" + (f": instead of {others[0]}." if len(others) == 1 else ".")
        return cell(meaning)

    def _type(self, message: DescriptorProto, name: str, field: FieldDescriptorProto) -> str:
        """How a field's type is written, with links."""
        for nested in message.nested_type:
            if nested.options.map_entry and field.type_name == f"{name}.{nested.name}":
                key, value = nested.field
                return f"map of {self._single(key)} to {self._single(value)}"
        prefix = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
        return prefix + ("optional " if field.proto3_optional else "") + self._single(field)

    def _single(self, field: FieldDescriptorProto) -> str:
        return self._link(field.type_name) if field.type_name else f"`{_SCALARS[field.type]}`"

    def _link(self, full_name: str) -> str:
        """A type's name, as a link if it is one of ours."""
        home = self._homes.get(full_name)
        if home is None:
            return f"`{full_name.removeprefix('.')}`"
        short = self._short(full_name)
        page = "" if home == self._here else f"{home}.md"
        return f"[`{short}`]({page}#{short.lower().replace('.', '')})"

    def _short(self, full_name: str) -> str:
        return full_name.removeprefix(f".{_PACKAGE}.")
