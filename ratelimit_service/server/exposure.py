"""What a server opens to whom: a line for each port, and the rules for addresses beyond loopback.

On loopback, where only processes of this machine can connect, everything may be open. Beyond it a server does not start
with anonymous callers or in plain text unless a setting says that this is meant. The operations port may be open there:
`/metrics` and the probes have no secret and no name of a key, subject or plan, and the console has rules of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from pydantic import SecretStr

from ratelimit_service.errors import StartupError
from ratelimit_service.operations.loopback import is_loopback
from ratelimit_service.server.operations_ports import console_obstacle
from ratelimit_service.server.port import resolve_all
from ratelimit_service.settings import Settings

_LISTEN: Final = "RATELIMIT_LISTEN"
_HTTP_LISTEN: Final = "RATELIMIT_HTTP_LISTEN"
_ADMIN: Final = "admin methods for tokens"


@dataclass(frozen=True, slots=True)
class Risk:
    """What can go wrong on a port beyond loopback, and what to do about it."""

    danger: str
    remedy: str
    accept: str
    """The setting with which a server starts all the same, and when that is right."""
    accepted: bool

    def __str__(self) -> str:
        """The danger and the remedy."""
        return f"{self.danger}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port of a server: how it is reached, and who may do what there."""

    setting: str
    address: str
    encryption: str
    """`TLS`, `plain text`, `HTTP, TLS` or the like."""
    grants: tuple[str, ...]
    """`decisions for gateways`, `admin methods for tokens`. Gateways are callers of role gateway, `tokens` those with
    a token of the role that the method needs, and `anyone` is everyone who can connect."""
    risks: tuple[Risk, ...] = ()

    def __str__(self) -> str:
        """`0.0.0.0:50051 TLS: decisions for gateways; admin methods for tokens`."""
        return f"{self.address} {self.encryption}: {'; '.join(self.grants)}"

    @property
    def refusals(self) -> list[str]:
        """Why a server does not open it: a line for each risk that no setting accepts."""
        return [f"{self._where}: {risk}, or {risk.accept}" for risk in self.risks if not risk.accepted]

    @property
    def accepted(self) -> list[str]:
        """A line for each risk that a setting accepts."""
        return [f"{self._where}: {risk}" for risk in self.risks if risk.accepted]

    @property
    def _where(self) -> str:
        return f"{self.setting} is {self.address}, which is beyond loopback"


def effective(settings: Settings) -> Settings:
    """SETTINGS with protect_checks as the address decides it. Raises StartupError for what must not be opened."""
    check_gateways(settings)
    check_plane(settings)
    if settings.admin_listen == settings.listen and not settings.listen.endswith(":0"):
        raise StartupError(
            f"RATELIMIT_ADMIN_LISTEN and RATELIMIT_LISTEN are both {settings.listen}; give the admin methods another "
            "port, or leave RATELIMIT_ADMIN_LISTEN empty to serve them on the gRPC port"
        )
    refusals = [line for port in open_ports(settings) for line in port.refusals]
    if refusals:
        raise StartupError("\n".join(refusals))
    update: dict[str, object] = {"protect_checks": _protected(settings)}
    if settings.database_variable != "RATELIMIT_DATABASE_URL":
        update["database_url"] = SecretStr("")  # no process of a server that only decides has a role that may write
    return settings.model_copy(update=update)


def check_plane(settings: Settings) -> None:
    """Raise StartupError if a server of one plane is to open a port that it has no use for."""
    if not settings.manages and settings.console_listen:
        raise StartupError(
            f"RATELIMIT_CONSOLE_LISTEN is {settings.console_listen}, and a server with RATELIMIT_PLANE=decision has no "
            "console; leave it empty: servers with RATELIMIT_PLANE=control serve the console"
        )
    if settings.plane != "all" and settings.admin_listen:
        remedy = (
            "leave RATELIMIT_ADMIN_LISTEN empty: servers with RATELIMIT_PLANE=control serve the admin methods"
            if settings.plane == "decision"
            else f"set RATELIMIT_LISTEN={settings.admin_listen}, where it serves them, and RATELIMIT_ADMIN_LISTEN empty"
        )
        raise StartupError(
            f"RATELIMIT_ADMIN_LISTEN is {settings.admin_listen}, a second port, and a server with RATELIMIT_PLANE="
            f"{settings.plane} has one for gRPC; {remedy}"
        )


def check_gateways(settings: Settings) -> None:
    """Raise StartupError if certificates are to make gateways, and nobody has to show one."""
    if settings.gateways and settings.tls_client_ca is None:
        raise StartupError(
            "RATELIMIT_GATEWAY_CERTIFICATES is set, but clients need no certificate; set RATELIMIT_TLS_CLIENT_CA to "
            "the CA that issues those of the gateways, or leave RATELIMIT_GATEWAY_CERTIFICATES empty"
        )


def open_ports(settings: Settings) -> Iterator[OpenPort]:
    """The ports that a server with SETTINGS opens. Raises StartupError if an address is invalid."""
    yield _public_port(settings, _LISTEN, settings.listen, _encryption(settings))
    if settings.admin_listen:
        yield _admin_port(settings, "RATELIMIT_ADMIN_LISTEN", settings.admin_listen, _encryption(settings))
    if settings.http_listen:
        yield _public_port(settings, _HTTP_LISTEN, settings.http_listen, f"HTTP, {_encryption(settings)}")
    yield from _operations_ports(settings)


def is_local(listen: str, setting: str) -> bool:
    """Whether only processes of this machine can connect to LISTEN, the value of SETTING.

    So it is for unix sockets, and for hosts all of whose addresses are loopback. Raises StartupError if it is invalid.
    """
    if listen.startswith("unix:"):
        return True
    return all(is_loopback(str(address[0])) for *_, address in resolve_all(listen, setting))


def _public_port(settings: Settings, setting: str, listen: str, encryption: str) -> OpenPort:
    """The gRPC port, or that for HTTP, which serves the same methods."""
    if not settings.decides:
        return _admin_port(settings, setting, listen, encryption)
    protected = _protected(settings)
    everyone = "anyone" if settings.tls_client_ca is None else "anyone with a certificate"
    grants = [f"decisions for {'gateways' if protected else everyone}"]
    if settings.manages and not settings.admin_listen:
        grants.append(_ADMIN)
    risks = []
    if not is_local(listen, setting):
        if settings.tls_certificate is None:
            risks.append(_plaintext(settings))
        if not protected:
            risks.append(_anonymous(settings))
    return OpenPort(setting, listen, encryption, tuple(grants), tuple(risks))


def _admin_port(settings: Settings, setting: str, listen: str, encryption: str) -> OpenPort:
    plain = settings.tls_certificate is None and not is_local(listen, setting)
    risks = (_plaintext(settings),) if plain else ()
    return OpenPort(setting, listen, encryption, (_ADMIN,), risks)


def _operations_ports(settings: Settings) -> Iterator[OpenPort]:
    encryption = "plain text" if settings.tls_certificate is None else "plain text or TLS"
    installed = find_spec("jinja2") is not None  # it is of the extra `console`
    served = settings.manages and installed and not console_obstacle(settings)
    console = ("console for tokens",) if served else ()
    if settings.operations_listen:
        grants = ("metrics and probes for anyone", *(() if settings.console_listen else console))
        yield OpenPort("RATELIMIT_OPERATIONS_LISTEN", settings.operations_listen, encryption, grants)
    if settings.console_listen and console:
        setting = "RATELIMIT_CONSOLE_LISTEN"
        local = is_local(settings.console_listen, setting)
        yield OpenPort(setting, settings.console_listen, encryption if local else "TLS", console)


def _protected(settings: Settings) -> bool:
    if settings.protect_checks is not None:
        return settings.protect_checks
    ports = ((settings.listen, _LISTEN), (settings.http_listen, _HTTP_LISTEN))
    return not all(is_local(listen, setting) for listen, setting in ports if listen)


def _encryption(settings: Settings) -> str:
    if settings.tls_certificate is None:
        return "plain text"
    return "TLS" if settings.tls_client_ca is None else "TLS with client certificates"


def _plaintext(settings: Settings) -> Risk:
    return Risk(
        danger="tokens and keys are sent to it in plain text",
        remedy="set RATELIMIT_TLS_CERTIFICATE and RATELIMIT_TLS_KEY",
        accept="RATELIMIT_ALLOW_PLAINTEXT=true if the network encrypts, as a service mesh does",
        accepted=settings.allow_plaintext,
    )


def _anonymous(settings: Settings) -> Risk:
    return Risk(
        danger="everyone who can connect may request decisions and use up limits",
        remedy="remove RATELIMIT_PROTECT_CHECKS=false, so that callers need a token of role gateway",
        accept="set RATELIMIT_ALLOW_ANONYMOUS=true if only gateways can connect",
        accepted=settings.allow_anonymous,
    )
