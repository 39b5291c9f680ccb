"""The public names of the Java client, their members, options and defaults, parsed, which needs no toolchain.

The source has one public type in each file, with its members indented by four blanks.
"""

import re
from pathlib import Path

from clients.conftest import ROOT
from clients.public_api import Defaults, PublicApi

_PACKAGE = ROOT / "clients" / "java" / "src" / "main" / "java" / "io" / "github" / "ratelimitservice" / "client"
_FRAMEWORKS = {"doFilter", "interceptCall"}
"""Methods that a framework calls."""
_CONSTRUCTORS = {"create", "of", "ofKeyId"}
_NONE = {"Optional.empty()", '""', "NoMetrics.INSTANCE", "InsecureChannelCredentials.create()"}
"""Defaults that mean that there is none."""


def java() -> PublicApi:
    """The API of the Java client: its packages, without the generated one."""
    api = PublicApi()
    for file in sorted(_PACKAGE.rglob("*.java")):
        package = ".".join(file.relative_to(_PACKAGE).parts[:-1])
        source = file.read_text()
        if re.search(rf"^public .*\b{file.stem}\b", source, re.MULTILINE):
            api.names[f"{package}.{file.stem}" if package else file.stem] = _members(file.stem, source)
    api.request = api.names["CheckRequest"]
    api.options = _options(_PACKAGE / "RateLimitClient.java")
    api.http_options = _options(_PACKAGE / "servlet" / "RateLimitFilter.java")
    api.grpc_options = _options(_PACKAGE / "grpc" / "RateLimitInterceptor.java")
    return api


def _members(name: str, source: str) -> set[str]:
    record = re.search(rf"^public record {name}\((.*?)\)\s*\{{", source, re.MULTILINE | re.DOTALL)
    components = re.findall(r"(\w+)\s*(?:,|$)", record[1]) if record else []
    if re.search(rf"^public enum {name}\b", source, re.MULTILINE):
        return set(re.findall(r"^    ([A-Z][A-Z_]*)[,;]?$", source, re.MULTILINE))
    modifier = "" if re.search(rf"^public interface {name}\b", source, re.MULTILINE) else "public "
    methods = re.findall(
        rf"^    {modifier}(?:static )?(?:<\w+> )?(?!return\b)[\w<>\[\], ?.]+ (\w+)\(", source, re.MULTILINE
    )
    types = re.findall(r"^    (?:public static final class|enum) (\w+)", source, re.MULTILINE)
    found = {*components, *methods, *types} - _FRAMEWORKS - _CONSTRUCTORS
    changed = {one for one in found if re.match(r"with[A-Z]", one)}
    assert {one[4].lower() + one[5:] for one in changed} <= found, f"{name} changes what it does not have"
    return found - changed


def _options(file: Path) -> Defaults:
    """The fields of the builder, with their values."""
    fields = re.findall(r"^        private [\w.<>?, ]+ (\w+) = (.*);$", file.read_text(), re.MULTILINE)
    return {name: _default(value) for name, value in fields}


def _default(value: str) -> str:
    if value in _NONE:
        return "none"
    if duration := re.fullmatch(r"Duration\.of(Millis|Seconds)\((\d+)\)", value):
        return f"{duration[2]} {'ms' if duration[1] == 'Millis' else 's'}"
    if logger := re.fullmatch(r'System\.getLogger\("(.*)"\)', value):
        return logger[1]
    if method := re.fullmatch(r"(\w+)::(\w+)", value):
        return f"System.{method[2]}" if method[1] == "System" else method[2]
    if constant := re.fullmatch(r"(?:HeaderStyle|Mode|NearLimit)\.(\w+)", value):
        return constant[1].lower()
    return value
