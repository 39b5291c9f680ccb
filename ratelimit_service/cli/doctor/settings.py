"""Checks of the settings: variables, peppers, TLS, the transport and the ports."""

import resource
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches

from ratelimit_service.cli.doctor.findings import Finding
from ratelimit_service.cli.doctor.running import running_server
from ratelimit_service.cli.environment import variable_name
from ratelimit_service.cli.target import TLS_VARIABLES
from ratelimit_service.decision.api_key import Peppers
from ratelimit_service.errors import StartupError
from ratelimit_service.server.exposure import check_gateways, check_plane, open_ports
from ratelimit_service.server.operations_ports import console_obstacle
from ratelimit_service.server.port import PortLock
from ratelimit_service.server.transport import Transport
from ratelimit_service.settings import Settings, renamed_variables
from ratelimit_service.tracing.export import SpanExport
from ratelimit_service.transport.file_descriptors import MAX_CONNECTIONS, max_connections
from ratelimit_service.webhook.open import open_webhook

_OF_COMMANDS = {
    "RATELIMIT_SERVER",
    "RATELIMIT_ADMIN_SERVER",
    "RATELIMIT_TOKEN",
    "RATELIMIT_API_KEY",
    "RATELIMIT_TRACEBACK",
}
_FEW_CONNECTIONS = 3_000


def check_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of each RATELIMIT_ variable that nothing reads, which is most often misspelt."""
    known = {variable_name(name) for name in Settings.model_fields} | _OF_COMMANDS.union(TLS_VARIABLES)
    renamed = dict(renamed_variables(environment))
    for name, instead in renamed.items():
        yield Finding.warning("variables", f"{name}: renamed, ignored; write {instead}")
    for name in sorted(environment):
        if name.upper().startswith("RATELIMIT_") and name.upper() not in known and name not in renamed:
            near = get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield Finding.warning("variables", f"{name}: unknown setting, ignored{hint}")


def check_peppers(settings: Settings) -> Iterator[Finding]:
    """Whether the peppers can be read and are long enough."""
    text = settings.peppers.get_secret_value()
    if not text:
        yield Finding.error(
            "peppers",
            "RATELIMIT_PEPPERS is not set; generate one with `echo 1:$(openssl rand -base64 32)`, keep it as safe as "
            "a password, and set the same one on every server",
        )
        return
    try:
        versions = sorted(Peppers.parse(text).by_version)
    except ValueError as error:
        yield Finding.error("peppers", f"RATELIMIT_PEPPERS: {error}")
    else:
        yield Finding.ok("peppers", f"version {versions[-1]} hashes new secrets; {len(versions)} in total")


def check_tls(settings: Settings) -> Iterator[Finding]:
    """Whether the files exist, are readable, and match."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    try:
        check_gateways(settings)
    except StartupError as error:
        yield Finding.error("tls", str(error))
        return
    if not (certificate or key or client_ca):
        return
    if not (certificate and key):
        missing = "RATELIMIT_TLS_KEY" if certificate else "RATELIMIT_TLS_CERTIFICATE"
        yield Finding.error("tls", f"{missing} is not set; TLS needs the certificate and its private key")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
        if client_ca:
            context.load_verify_locations(client_ca)
    except FileNotFoundError:
        absent = next(path for path in (certificate, key, client_ca) if path and not path.exists())
        yield Finding.error("tls", f"no such file: {absent}")
    except ssl.SSLError as error:
        yield Finding.error("tls", f"{certificate} and {key} cannot be used: {error.reason or 'not PEM files'}")
    except OSError as error:
        yield Finding.error("tls", f"the certificate files cannot be read: {error.strerror}")
    else:
        yield Finding.ok("tls", f"serves {certificate}" + (", requests client certificates" if client_ca else ""))


def check_planes(settings: Settings) -> Iterator[Finding]:
    """What of the service this server is, and whether its ports fit that. Nothing to say of one that is all of it."""
    try:
        check_plane(settings)
    except StartupError as error:
        yield Finding.error("plane", str(error))
    else:
        if settings.plane != "all":
            yield Finding.ok("plane", f"{settings.plane}, by RATELIMIT_PLANE")


def check_transport(settings: Settings) -> Iterator[Finding]:
    """Which transport a server would use."""
    try:
        transport = Transport.choose(settings)
    except StartupError as error:
        yield Finding.error("transport", str(error))
    else:
        yield Finding.ok("transport", f"{transport.name}: {transport.reason}")


def check_descriptors(_settings: Settings) -> Iterator[Finding]:
    """Whether the system allows as many descriptors as a server needs, which raises its soft limit to the hard one."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = max_connections(MAX_CONNECTIONS, limit)
    if connections < _FEW_CONNECTIONS:
        yield Finding.warning(
            "descriptors",
            f"the hard limit of {limit} leaves {connections} connections for a server process; raise it "
            "(`ulimit -Hn`, `LimitNOFILE=` of systemd, `--ulimit nofile=` of docker)",
        )
    else:
        yield Finding.ok("descriptors", f"enough for {connections} connections to a server process")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Whether the addresses can be listened on. A ratelimit-service on the gRPC port is fine, and not an error."""
    try:
        PortLock(settings.listen).close()
    except StartupError as error:
        yield running_server(settings) or Finding.error("port", str(error))
        return
    yield Finding.ok("port", f"{settings.listen} is free")
    if settings.admin_listen:
        yield _check_port("admin port", settings.admin_listen, "RATELIMIT_ADMIN_LISTEN")
    if settings.http_listen:
        yield _check_port("http port", settings.http_listen, "RATELIMIT_HTTP_LISTEN")
    if settings.operations_listen:
        yield _check_port("operations port", settings.operations_listen, "RATELIMIT_OPERATIONS_LISTEN")
    if settings.console_listen:
        yield _check_port("console port", settings.console_listen, "RATELIMIT_CONSOLE_LISTEN")


def _check_port(subject: str, listen: str, setting: str) -> Finding:
    try:
        PortLock(listen, setting).close()
    except StartupError as error:
        return Finding.error(subject, str(error))
    return Finding.ok(subject, f"{listen} is free")


def check_open_ports(settings: Settings) -> Iterator[Finding]:
    """What is open to whom, what is risky in it, and whether a server refuses to open it."""
    with suppress(StartupError):  # an invalid address, which the check of the ports reports
        for port in open_ports(settings):
            if not port.refusals:
                yield Finding.ok("open", str(port))
            yield from (Finding.warning("open", line) for line in port.accepted)
            yield from (Finding.error("open", line) for line in port.refusals)


def check_console(settings: Settings) -> Iterator[Finding]:
    """Whether the console is served where it can be reached."""
    with suppress(StartupError):  # an invalid address, which the check of the ports reports
        if obstacle := console_obstacle(settings):
            yield Finding.warning("console", f"off: {obstacle}")


def check_webhook(settings: Settings) -> Iterator[Finding]:
    """Whether alerts can be sent, as far as the settings say; `alerts test` sends one."""
    url, secret = settings.alert_webhook_url.get_secret_value(), settings.alert_webhook_secret.get_secret_value()
    if not url or not settings.manages:
        return
    try:
        open_webhook(url, secret, allow_private=settings.alert_webhook_allow_private)
    except ValueError as error:
        yield Finding.error("webhook", str(error))
    else:
        yield Finding.ok("webhook", "alerts are sent; `ratelimit-service alerts test` tries it")


def check_tracing(settings: Settings) -> Iterator[Finding]:
    """Whether spans can be sent, as far as this machine says; the server's metrics count those that arrive."""
    if not settings.otlp_endpoint:
        return
    try:
        SpanExport(settings.otlp_endpoint)
    except StartupError as error:
        yield Finding.error("tracing", str(error))
    else:
        yield Finding.ok("tracing", f"spans are sent to {settings.otlp_endpoint}")
