"""The public names of the Python, Go and TypeScript clients, their members, options and defaults, read from the code.

Python is imported and inspected. Go and TypeScript are parsed, which needs no toolchain: gofmt and prettier, which
their tests run, leave one way to lay out a declaration.
"""

import dataclasses
import enum
import inspect
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, is_typeddict

import ratelimit_client
import ratelimit_client.opentelemetry
import ratelimit_client.wsgi

from clients.conftest import ROOT

_GO = ROOT / "clients" / "go"
_TYPESCRIPT = ROOT / "clients" / "typescript"

Defaults = dict[str, str]
"""The default of each option, as the code has it. `none` for those without one."""


@dataclass
class PublicApi:
    """What one client exports."""

    names: dict[str, set[str]] = field(default_factory=dict)
    """The members of each exported name. Empty for functions, and for types of options."""
    request: set[str] = field(default_factory=set)
    """What a check takes."""
    options: Defaults = field(default_factory=dict)
    http_options: Defaults = field(default_factory=dict)
    grpc_options: Defaults = field(default_factory=dict)


def python() -> PublicApi:
    """The API of the Python client."""
    api = PublicApi()
    for name in ratelimit_client.__all__:
        exported = getattr(ratelimit_client, name)
        is_options = exported is ratelimit_client.ClientOptions
        api.names[name] = set() if is_options or not isinstance(exported, type) else _python_members(exported)
    for_opentelemetry = ratelimit_client.opentelemetry.OpenTelemetryMetrics
    api.names["opentelemetry.OpenTelemetryMetrics"] = _python_members(for_opentelemetry)
    api.names["wsgi.is_preflight"] = set()
    assert callable(ratelimit_client.wsgi.is_preflight)
    api.request = set(inspect.signature(ratelimit_client.RateLimitClient.check).parameters) - {"self"}
    api.options = {
        option.name: _python_default(option.default) for option in dataclasses.fields(ratelimit_client.ClientOptions)
    }
    api.http_options = _keyword_arguments(ratelimit_client.RateLimitMiddleware)
    assert api.http_options == _keyword_arguments(ratelimit_client.WsgiRateLimitMiddleware)
    api.grpc_options = _keyword_arguments(ratelimit_client.RateLimitInterceptor)
    assert api.grpc_options == _keyword_arguments(ratelimit_client.AsyncRateLimitInterceptor)
    return api


def _python_members(exported: type) -> set[str]:
    if issubclass(exported, enum.Enum):
        return set(exported.__members__)
    if is_typeddict(exported) or hasattr(exported, "_fields"):
        return set(exported.__annotations__)
    # What a base class has is a framework's, such as `intercept_service`.
    inherited = {name for base in exported.__mro__[1:] for name in vars(base)}
    return {
        name
        for name in {*vars(exported), *getattr(exported, "__annotations__", ())}
        if not name.startswith("_") and name not in inherited
    }


def _keyword_arguments(exported: type) -> Defaults:
    parameters = inspect.signature(exported).parameters.values()
    return {one.name: _python_default(one.default) for one in parameters if one.kind is one.KEYWORD_ONLY}


def _python_default(value: Any) -> str:  # noqa: ANN401  the default of any option
    if value is None:
        return "none"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, logging.Logger):
        return value.name
    if callable(value):
        return f"{value.__module__}.{value.__name__}" if value.__module__ == "time" else value.__name__
    # Seconds, as every float of the Python client is.
    return f"{value * 1000:g} ms" if isinstance(value, float) else str(value)


def go() -> PublicApi:
    """The API of the Go client: the packages that a program can import, without the generated one."""
    api = PublicApi()
    source = _go_package("ratelimit")
    types = re.findall(r"^type ([A-Z]\w*)\b", source, re.MULTILINE)
    api.names = {name: set() for name in types}
    for name, body in re.findall(r"^type ([A-Z]\w*) struct \{\n(.*?)^\}", source, re.MULTILINE | re.DOTALL):
        api.names[name] |= set(re.findall(r"^\t([A-Z]\w*) ", body, re.MULTILINE))
    for name, body in re.findall(r"^type ([A-Z]\w*) interface \{\n(.*?)^\}", source, re.MULTILINE | re.DOTALL):
        api.names[name] |= set(re.findall(r"^\t([A-Z]\w*)\(", body, re.MULTILINE))
    for receiver, method in re.findall(r"^func \(\w+ \*?([A-Z]\w*)\) ([A-Z]\w*)\(", source, re.MULTILINE):
        if (receiver, method) != ("Error", "Error"):  # which makes the type an error
            api.names[receiver].add(method)
    functions = _go_functions(source)
    constants = re.findall(r"^\t([A-Z]\w*) .*= ", source, re.MULTILINE)
    for name in functions + constants:
        owner = max((one for one in types if name.startswith(one)), key=len, default=None)
        if name.startswith("New") and name.removeprefix("New") in types:
            continue  # a constructor
        if owner is not None:
            api.names[owner].add(name.removeprefix(owner))
        elif not name.startswith("With"):
            api.names[name] = set()
    api.request = api.names["CheckRequest"]
    api.options = _go_options(source)
    api.http_options = _go_options(_go_package("ratelimithttp"))
    api.grpc_options = _go_options(_go_package("ratelimitgrpc"))
    for package in ("ratelimithttp", "ratelimitgrpc"):
        source = _go_package(package)
        exported = [*re.findall(r"^type ([A-Z]\w*)\b", source, re.MULTILINE), *_go_functions(source)]
        api.names |= {f"{package}.{name}": set() for name in exported if not name.startswith("With")}
    methods = re.findall(r"^func \(m \*Metrics\) ([A-Z]\w*)\(", _go_package("ratelimitotel"), re.MULTILINE)
    api.names["ratelimitotel.Metrics"] = set(methods)
    return api


def _go_package(name: str) -> str:
    files = sorted((_GO / name).glob("*.go"))
    return "\n".join(file.read_text() for file in files if not file.name.endswith("_test.go"))


def _go_functions(source: str) -> list[str]:
    return re.findall(r"^func ([A-Z]\w*)\(", source, re.MULTILINE)


def _go_options(source: str) -> Defaults:
    """Each `With` function, with the value that `defaults` has for the field that it sets."""
    literal = _only(r"^func defaults\(\) options \{\n\treturn options\{\n(.*?)^\t\}", source)
    defaults = dict(re.findall(r"^\t\t(\w+): +(.*),$", literal, re.MULTILINE))
    options = re.findall(
        r"^func (With\w+)\(.*?^\treturn func\(o \*options\) \{ o\.(\w+) = ", source, re.MULTILINE | re.DOTALL
    )
    return {name: _go_default(defaults.get(set_field, "none")) for name, set_field in options}


def _go_default(value: str) -> str:
    if value == "noMetrics{}":
        return "none"
    if duration := re.fullmatch(r"(\d+) \* time\.(Millisecond|Second)", value):
        return f"{duration[1]} {'ms' if duration[2] == 'Millisecond' else 's'}"
    if constant := re.fullmatch(r"ratelimit\.(\w+)", value):
        return _only(rf'^\t{constant[1]} \w+ += "([^"\n]*)"$', _go_package("ratelimit"))
    return value


def typescript() -> PublicApi:
    """The API of the TypeScript client: what the entry points of its package.json export, without the generated one."""
    api = PublicApi()
    for entry, targets in json.loads((_TYPESCRIPT / "package.json").read_text())["exports"].items():
        if not isinstance(targets, dict) or "/gen/" in targets["types"]:
            continue
        module = Path(targets["types"]).name.removesuffix(".d.ts")
        prefix = "" if entry == "." else f"{entry.removeprefix('./')}."
        for name, source in _typescript_exports(module):
            api.names[prefix + name] = _typescript_members(name, source)
    for name in ("CheckRequest", "ReserveRequest"):
        api.names[name] = _typescript_request(name)
    api.request = api.names["CheckRequest"]
    api.options = _typescript_options(api.names["ClientOptions"])
    api.http_options = _typescript_middleware_options(api.names["MiddlewareOptions"])
    api.names["ClientOptions"] = api.names["MiddlewareOptions"] = set()
    return api


def _typescript_request(name: str) -> set[str]:
    """The members of a type that is `Key & {...}`."""
    request = _typescript_source("request")
    key = re.findall(r"\b(\w+)\??: ", _only(r"^type Key = (.*?);\n\n", request))
    own = re.findall(r"^  (\w+)\??: (.*);$", _only(rf"^export type {name} = (.*?)^\}};", request), re.MULTILINE)
    return {*key, *(_without_unit(*one) for one in own)}


def _typescript_source(module: str) -> str:
    return (_TYPESCRIPT / "src" / f"{module}.ts").read_text()


def _typescript_exports(module: str) -> list[tuple[str, str]]:
    """Each name that MODULE exports, with the source of the module that declares it."""
    source = _typescript_source(module)
    found = [
        (name, source)
        for name in re.findall(r"^export (?:async )?(?:function|class|interface|type) (\w+)", source, re.MULTILINE)
    ]
    for names, origin in re.findall(r'^export (?:type )?\{ (.*?) \} from "\./(\w+)\.js";$', source, re.MULTILINE):
        found += [(name.removeprefix("type "), _typescript_source(origin)) for name in names.split(", ")]
    return found


def _typescript_members(name: str, source: str) -> set[str]:
    if body := re.search(rf"^export interface {name}(?:<\w+>)? \{{\n(.*?)^\}}", source, re.MULTILINE | re.DOTALL):
        return {
            _without_unit(*one)
            for one in re.findall(r'^  (?:readonly )?"?([\w-]+)"?\??: (.*);$', body[1], re.MULTILINE)
        }
    if body := re.search(rf"^export class {name}( extends Error)? .*?\{{\n(.*?)^\}}", source, re.MULTILINE | re.DOTALL):
        members = re.findall(r"^  (?:static |async |get |readonly )*(\w+)(?:\(|<|: )", body[2], re.MULTILINE)
        return set(members) - {"constructor"} | ({"message"} if body[1] else set())
    if alias := re.search(rf"^export type {name} = (.*?);$", source, re.MULTILINE | re.DOTALL):
        generated = re.match(r"keyof typeof (\w+) \| number", alias[1])
        if generated is not None:
            enumeration = _only(
                rf"^export enum {generated[1]} \{{\n(.*?)^\}}",
                _typescript_source("gen/ratelimit/v1/rate_limit_service_pb"),
            )
            return set(re.findall(r"^  (\w+) = ", enumeration, re.MULTILINE))
        return set(re.findall(r'"([\w-]+)"', alias[1]))
    assert re.search(rf"^export (?:async )?function {name}\(", source, re.MULTILINE), f"{name} is of no known kind"
    return set()


def _without_unit(name: str, kind: str) -> str:
    return name.removesuffix("Ms") if kind == "number" else name


def _typescript_options(names: set[str]) -> Defaults:
    source = _typescript_source("options")
    literal = _only(r"^const DEFAULTS = \{\n(.*?)^\} satisfies ClientOptions;", source)
    defaults = dict(re.findall(r"^  (\w+): (.*),$", literal, re.MULTILINE))
    given = re.findall(r"^  (\w+)\?: ", _only(r"^export interface ClientOptions \{\n(.*?)^\}", source), re.MULTILINE)
    assert {name.removesuffix("Ms") for name in given} == names
    return {name: _typescript_default(name, defaults.get(name, "none")) for name in given}


def _typescript_default(name: str, value: str) -> str:
    if function := re.fullmatch(r"\(\) => ([\w.]+)\(\)", value):
        return function[1]
    return f"{value} ms" if name.endswith("Ms") else value.strip('"')


def _typescript_middleware_options(names: set[str]) -> Defaults:
    """The defaults are those of the shared code, or of each framework where it leaves them to that."""
    destructured = _only(r"const \{\s(.*?)\s\} = options;", _typescript_source("middleware"))
    defaults = dict(re.findall(r'(\w+) = ("[^"]*"|[\w.]+)', destructured))
    assert defaults.keys() == names
    found = {name: _typescript_default(name, value) for name, value in defaults.items()}
    for framework in ("express", "fastify"):
        source = _typescript_source(framework)
        assert "{ key: xApiKey, resource }" in source
        assert found["key"] in ("defaults.key", "xApiKey")
        found["key"] = "xApiKey"
        found["resource"] = _only(r"const resource = \(request: Request\) => (\w+)\(", source)
    return found


def _only(pattern: str, source: str) -> str:
    found = re.findall(pattern, source, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} matches of {pattern}"
    only: str = found[0]
    return only
