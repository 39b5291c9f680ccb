"""What the target of a client may be, checked where the client is made."""

import json
import re

# The schemes of grpc-core. One that takes more than a host and a port is left to it.
_SOCKETS = ("unix:", "unix-abstract:")
_LEFT_TO_GRPC = ("ipv4:", "ipv6:", "vsock:", "xds:", "google-c2p:")
_DNS = re.compile(r"dns:(//[^/]*/)?")
_OTHER_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_NOT_OF_A_HOST = re.compile(r"[/?#@\\]")
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::([^:\[\]]*))?")
_MAX_PORT = 65535


def check_target(target: str) -> None:
    """Raise ValueError for a TARGET that no service can be called at, with what is wrong with it."""
    problem = _problem(target)
    if problem:
        quoted = json.dumps(target, ensure_ascii=False)
        raise ValueError(
            f"target is {quoted}: {problem}; it must be host:port, such as "
            '"localhost:50051", dns:///host:port or unix:path'
        )


def _problem(target: str) -> str:
    """What is wrong with TARGET. Empty: nothing."""
    if _BLANK.search(target):
        return "it has a blank in it"
    for scheme in _SOCKETS:
        if target.startswith(scheme):
            return "" if target.removeprefix(scheme).strip("/") else "it has no path"
    if target.startswith(_LEFT_TO_GRPC):
        return ""
    dns = _DNS.match(target)
    if dns is not None:
        return _problem_of_host_and_port(target[dns.end() :])
    other = _OTHER_SCHEME.match(target)
    if other is not None:
        return f'leave out "{other[0]}" (TLS is the option tls)'
    return _problem_of_host_and_port(target)


def _problem_of_host_and_port(text: str) -> str:
    if not text:
        return "it is empty"
    if foreign := _NOT_OF_A_HOST.search(text):
        return f'it has "{foreign[0]}" in it'
    parts = _HOST_AND_PORT.fullmatch(text)
    if parts is None:
        return "put the IPv6 address in brackets"
    host, port = parts[1], parts[2]
    if not host or not port:
        return "it has no port" if host else "it has no host"
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _MAX_PORT):
        return f'its port "{port}" is not a number from 1 to {_MAX_PORT}'
    return ""
