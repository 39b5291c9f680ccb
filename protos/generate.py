"""Generate the Python code of every proto, with imports relative to the package it is put in.

protoc writes absolute imports (`from ratelimit.v1 import key_pb2`), which would claim the top-level names `ratelimit`,
`envoy` and `grpc` that other distributions own. So each import of one of our own files is made relative to the file
that it is in.

Usage: python protos/generate.py OUT_DIR [FOLDER ...]     FOLDER: `ratelimit`, `envoy` or `grpc`, default all
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent
FOLDERS = ("ratelimit", "envoy", "grpc")
"""The folders that code is generated from. `google` is for compilers only; its Python code is a separate package."""

_IMPORT = re.compile(r"^(?P<indent>\s*)from (?P<package>[\w.]+) import (?P<module>\w+_pb2)\b", re.MULTILINE)
_PLAIN = re.compile(r"^import (?P<package>[\w.]+)\.(?P<module>\w+_pb2)(?: as (?P<name>\w+))?$", re.MULTILINE)


def main(out: Path, folders: list[str]) -> None:
    """Generate the files of FOLDERS into OUT, which is created if missing."""
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]  # for protoc-gen-mypy
    protos = sorted(p.relative_to(ROOT) for f in folders for p in (ROOT / f).rglob("*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={ROOT}",
        f"--proto_path={Path(protoc.__file__).parent / '_proto'}",
        f"--python_out={out}",
        f"--mypy_out=relax_strict_optional_primitives,quiet:{out}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        *map(str, protos),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed: see above")
    for proto in protos:
        _make_relative(out, proto)
    for folder in {parent for proto in protos for parent in proto.parents} | {Path()}:
        (out / folder / "__init__.py").write_text('"""Generated. Run `make proto`."""\n')


def _make_relative(out: Path, proto: Path) -> None:
    here = proto.parent

    def relative(package: str) -> str:
        steps = os.path.relpath(package.replace(".", "/"), here).split("/")
        return "." * (steps.count("..") + 1) + ".".join(step for step in steps if step not in {".", ".."})

    def is_ours(package: str) -> bool:
        return package.split(".", maxsplit=1)[0] in FOLDERS

    def rewrite(match: re.Match[str]) -> str:
        if not is_ours(match["package"]):
            return match[0]
        return f"{match['indent']}from {relative(match['package'])} import {match['module']}"

    for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"):
        path = out / proto.with_name(proto.stem + suffix)
        if not path.exists():
            continue
        text = path.read_text()
        if "_grpc" in suffix and "Stub" not in text:  # a file without a service
            path.unlink()
            continue
        for plain in _PLAIN.finditer(text):
            if is_ours(plain["package"]) and not plain["name"]:
                dotted = f"{plain['package']}.{plain['module']}"
                name = dotted.replace(".", "_")
                text = text.replace(plain[0], f"from {plain['package']} import {plain['module']} as {name}")
                text = text.replace(f"{dotted}.", f"{name}.")
        path.write_text(_IMPORT.sub(rewrite, text))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(FOLDERS))
