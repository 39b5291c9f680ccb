"""Every setting, in one place. Each is read from the environment variable RATELIMIT_<NAME>."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ratelimit_service.data_dir import DEFAULT_DATA_DIR


class Settings(BaseSettings):
    """The settings of a server. `ratelimit-service doctor` explains what is wrong with them."""

    model_config = SettingsConfigDict(env_prefix="RATELIMIT_", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="Postgres: `postgresql://user:password@host:5432/name`. `dev` starts its own.",
    )
    decision_database_url: SecretStr = Field(
        default=SecretStr(""),
        description="The same Postgres for decisions alone, by a role that only reads: see `migrate --print-grants`. "
        "If empty, RATELIMIT_DATABASE_URL is used. With RATELIMIT_PLANE=decision the only one that is needed.",
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""),
        description="Redis or Valkey: `redis://host:6379/0`, `rediss://...`, "
        "`redis+sentinel://h1:26379,h2:26379/name`, "
        "`redis+cluster://h1:6379,h2:6379`. `dev` starts its own.",
    )
    peppers: SecretStr = Field(
        default=SecretStr(""),
        description="HMAC keys that secrets are hashed with: `1:<base64>,2:<base64>`, each at least 32 bytes. "
        "New secrets use the highest number; keep the others until no key needs them. `dev` makes its own.",
    )
    plane: Literal["all", "decision", "control"] = Field(
        default="all",
        description="What a server serves. `decision`: RateLimitService and Envoy's protocols, with no right to write "
        "to Postgres. `control`: KeyAdminService and the console, and what is done once for all servers (usage, "
        "alerts, retention). `all`: both.",
    )
    listen: str = Field(default="127.0.0.1:50051", description="Address of the gRPC port.")
    admin_listen: str = Field(
        default="",
        description="Address of a port of its own for the admin methods (KeyAdminService), in a network without "
        "gateways or on loopback: `127.0.0.1:50052`. The gRPC port then does not serve them. If empty, it does. For "
        "RATELIMIT_PLANE=all.",
    )
    http_listen: str = Field(
        default="",
        description="Address of a port for JSON over HTTP/1.1, as for curl: `127.0.0.1:8080`. It has the methods of "
        "RateLimitService and KeyAdminService that RATELIMIT_LISTEN has, but for streams, to the same callers. If "
        "empty, there is none.",
    )
    operations_listen: str = Field(
        default="127.0.0.1:9464",
        description="Address of the operations port: `/metrics`, `/healthz`, `/readyz`, `/status` and `/console`. If "
        "empty, there is none.",
    )
    console_listen: str = Field(
        default="",
        description="Address of a port of its own for `/console`. If empty, the console is on the operations port. "
        "Beyond loopback it is served by TLS only.",
    )
    console_hosts: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9.:,\[\] -]*$",
        description="Names under which browsers may ask for the console, separated by commas, besides `localhost` and "
        "the address that it is served on: `limits.example.com`.",
    )
    transport: Literal["auto", "grpcio", "envoy"] = Field(
        default="auto", description="How calls are received. `auto` is `envoy` where it is installed, else `grpcio`."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Server processes that share the gRPC port.")
    data_dir: Path = Field(default=DEFAULT_DATA_DIR, description="Where `dev` keeps its Postgres, Valkey and dev.json.")
    key_environment: str = Field(
        default="live", pattern="^[a-z0-9]{1,12}$", description="The <env> in new keys: `rlk_<env>_<id>_<secret>`."
    )
    protect_checks: bool | None = Field(
        default=None,
        description="Whether CheckLimit and Envoy's protocols need a caller of role gateway: a token, or a certificate "
        "of RATELIMIT_GATEWAY_CERTIFICATES. Only such a caller may send key_id. By default `true` if RATELIMIT_LISTEN "
        "or RATELIMIT_HTTP_LISTEN is beyond loopback, else `false`.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Whether a server starts beyond loopback with RATELIMIT_PROTECT_CHECKS=false: everyone who reaches "
        "the port may request decisions. For networks that only gateways can reach.",
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Whether a server starts beyond loopback without TLS: tokens and keys can be read on the way. "
        "For networks that encrypt by themselves, as a service mesh does.",
    )
    key_header: str = Field(
        default="x-api-key",
        pattern="^[a-z0-9][a-z0-9-]{0,63}$",
        description="Envoy's ext_authz: the header with the API key, in lower case. In `authorization` the key follows "
        "`Bearer`, in any other header it stands alone. The header is not forwarded to the upstream.",
    )
    limit_headers: str = Field(
        default="ietf",
        pattern="^(|(ietf|x-ratelimit|ratelimit)(,(ietf|x-ratelimit|ratelimit))*)$",
        description="Envoy's protocols: the headers that report limits to clients. `ietf` (`RateLimit-Policy` and "
        "`RateLimit` of draft 11), `x-ratelimit` (`X-RateLimit-Limit`, `-Remaining`, `-Reset`), `ratelimit` (the same "
        "without `X-`), or several, separated by commas. If empty, only `Retry-After` is sent.",
    )
    request_id_window: float = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds for which a repeated request_id of an allowed call returns the first decision and is not "
        "charged again; 2 at most while Redis has less than a fifth of its memory left.",
    )
    store_timeout: float = Field(
        default=0.1,
        ge=0.001,
        le=5,
        description="Seconds that a decision waits for Redis at most before on_store_failure applies: less where the "
        "caller's deadline is earlier.",
    )
    store_slow: float = Field(
        default=0.02,
        ge=0.001,
        le=5,
        description="Seconds that a reply of Redis may take. Once all replies of a node have taken longer for 0.1 s, "
        "calls are decided by on_store_failure at once, until one takes less.",
    )
    remember_denials: bool = Field(
        default=True,
        description="Whether a server remembers what Redis has denied, for a second at most, and denies the same calls "
        "by itself until a limit has room again. `false`: each call asks Redis.",
    )
    crossing: bool = Field(
        default=True,
        description="Whether calls cross from Envoy to Python by ratelimit-service-crossing where that is installed. "
        "`false`: by pyvoy alone, as where it is not.",
    )
    on_overload: Literal["error", "deny"] = Field(
        default="error",
        description="What Envoy's protocols respond when there are more calls than can be decided in time: `error` "
        "(UNAVAILABLE, and the gateway's own failure mode decides) or `deny` (OVER_LIMIT, and 503 by ext_authz).",
    )
    usage_store_bytes: int = Field(
        default=2**28,
        ge=2**20,
        description="Bytes that counts of usage may take in Redis until they are moved to Postgres, at least 1 MiB. "
        "The fuller, the longer are the periods that are counted together; beyond it, resources count as `other`.",
    )
    bucket_store_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory in bytes of each Redis server. From 80 % of it on, clients get few new buckets for values "
        "that they choose, such as addresses; the rest is for keys. If 0, it is what its `maxmemory` says, or half of "
        "its machine's memory if it has none.",
    )
    alert_webhook_url: SecretStr = Field(
        default=SecretStr(""),
        description="Where alerts are sent: `https://host/path`. If empty, they are not sent, but listed and in the "
        "metrics all the same.",
    )
    alert_webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="The HMAC key that messages to the webhook are signed with, at least 16 characters.",
    )
    alert_webhook_allow_private: bool = Field(
        default=False,
        description="Whether the webhook may be at an address that is not public, and use http.",
    )
    alert_quota_percent: str = Field(
        default="80,90,100",
        pattern="^(|([1-9][0-9]?|100)(,([1-9][0-9]?|100))*)$",
        description="Percentages of a quota of an hour or longer that raise an alert when a subject passes them. If "
        "empty, quotas raise none.",
    )
    confirm_keys: int = Field(
        default=1_000,
        ge=0,
        description="Keys that a change of a plan or a subject's override may touch without being confirmed. One that "
        "cuts a limit by more than half, or lifts one, is confirmed in any case.",
    )
    audit_retention: int = Field(
        default=1_095,
        ge=0,
        le=36_500,
        description="Days that audit events are kept, three years by default. 0 keeps them forever.",
    )
    usage_minute_days: int = Field(
        default=7, ge=1, le=3_660, description="Days for which usage is kept by minute. At least these, in whole days."
    )
    usage_hour_days: int = Field(
        default=90, ge=1, le=3_660, description="Days for which usage is kept by hour. At least these, in whole months."
    )
    usage_day_days: int = Field(
        default=1_096,
        ge=1,
        le=36_600,
        description="Days for which usage is kept by day. At least these, in whole months.",
    )
    policy_cache_size: int = Field(
        default=100_000,
        ge=1,
        description="Maximum number of keys with a cached policy, per worker. At most as many of their requests are "
        "cached.",
    )
    max_open_reservations: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Reservations that one subject may have open; further ones are denied. Each takes up to 200 bytes "
        "in Redis.",
    )
    unknown_key_ttl: float = Field(
        default=5, ge=0.1, le=300, description="Seconds for which an unknown key is not looked up again."
    )
    max_concurrent_streams: int = Field(
        default=16,
        ge=4,
        le=128,
        description="Calls that one connection may have in flight; more wait in the client. What all connections of a "
        "worker have in flight together should be decided before gateways give up (300 calls or so in 25 ms): set less "
        "where gateways keep more than a dozen connections with a worker, and the same in the gateway.",
    )
    max_connection_age: float = Field(
        default=1800,
        ge=1,
        description="Seconds (plus or minus a tenth) after which a client connection is closed gracefully (GOAWAY).",
    )
    drain_timeout: float = Field(
        default=10, ge=0, le=300, description="Seconds that calls in progress get to complete after SIGTERM."
    )
    drain_delay: float = Field(
        default=0,
        ge=0,
        le=300,
        description="Seconds for which a server goes on as before after SIGTERM, but for its health (NOT_SERVING) and "
        "/readyz (503). Then it closes its port and drains. Set it to more than balancers that check health need to "
        "notice, such as Envoy, which would open connections to the closed port otherwise. 0 for none.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of the certificate chain. If empty, the ports serve plain text. With it, the gRPC "
        "and HTTP ports serve TLS alone, the operations port plain text and TLS, and beyond loopback the console TLS "
        "alone.",
    )
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file of the CA that must have issued the certificates of clients of the gRPC and HTTP ports. "
        "If empty, clients need none.",
    )
    gateway_certificates: str = Field(
        default="",
        description="Clients whose certificate makes them gateways, as with a token of that role: the DNS names and "
        "URIs in it as subject alternative names, separated by commas: "
        "`gateway.example.com,spiffe://example.com/gateway`. Needs RATELIMIT_TLS_CLIENT_CA. "
        "A certificate without any of them has no role.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Minimum log level.")
    log_format: Literal["text", "json"] = Field(default="text", description="`text` for people, `json` for collectors.")
    access_log_sampling: float = Field(
        default=0,
        ge=0,
        le=1,
        description="The share of calls that get a line in the log, at level info, with the decision: at most 100 a "
        "second of one process. 0: none.",
    )
    otlp_endpoint: str = Field(
        default="",
        description="The OpenTelemetry collector that spans are sent to by OTLP over gRPC: `http://host:4317`, or "
        "`https://`. If empty, no call is traced.",
    )
    trace_sampling: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="The share of calls that are traced, of those whose callers have no trace of their own. For "
        "RATELIMIT_OTLP_ENDPOINT.",
    )
    trace_followed: int = Field(
        default=100,
        ge=0,
        le=100_000,
        description="Calls a second and process that are traced, besides, because their callers trace them (the flag "
        "of `traceparent`): of callers with a role, or of any where decisions need none. 0 follows no caller.",
    )

    @field_validator("gateway_certificates")
    @classmethod
    def _check_gateways(cls, text: str) -> str:
        parse_gateways(text)
        return text

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, url: str) -> str:
        if url and not _ENDPOINT.fullmatch(url):
            raise ValueError(
                "write http://host:4317, or https://host:4317 for TLS, without a path; a token for the collector is "
                "set by OTEL_EXPORTER_OTLP_HEADERS"
            )
        return url

    @property
    def checks_protected(self) -> bool:
        """What protect_checks comes to: a server decides it by its address before its processes start."""
        return self.protect_checks is not False

    @property
    def decides(self) -> bool:
        """Whether the server decides calls."""
        return self.plane != "control"

    @property
    def manages(self) -> bool:
        """Whether the server has the admin methods and the console, and does what is done once for all servers."""
        return self.plane != "decision"

    @property
    def decision_database_variable(self) -> str:
        """The variable whose Postgres decisions are read from: that for decisions alone, if it is set."""
        named = self.decision_database_url.get_secret_value()
        return "RATELIMIT_DECISION_DATABASE_URL" if named else "RATELIMIT_DATABASE_URL"

    @property
    def database_variable(self) -> str:
        """The variable with the Postgres of a server with these settings. One that only decides has no other."""
        return "RATELIMIT_DATABASE_URL" if self.manages else self.decision_database_variable

    def url(self, variable: str) -> str:
        """The database URL in VARIABLE, empty if it is not set. It may hold a password."""
        found: SecretStr = getattr(self, variable.removeprefix("RATELIMIT_").lower())
        return found.get_secret_value()

    @property
    def gateways(self) -> frozenset[str]:
        """The names of gateway_certificates: DNS names in lower case, and URIs, which have a colon, as they are."""
        return parse_gateways(self.gateway_certificates)


_ENDPOINT: Final = re.compile(r"https?://[^/?#@\s]+/?")

_DNS_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*")
_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*:[!-+\--~]{1,2000}")


def parse_gateways(text: str) -> frozenset[str]:
    """Read RATELIMIT_GATEWAY_CERTIFICATES. Raises ValueError for what is neither a DNS name nor a URI."""
    names = {part.strip() for part in text.split(",")} if text.strip() else set()
    return frozenset(_gateway(name) for name in names)


def _gateway(name: str) -> str:
    if _URI.fullmatch(name) and "*" not in name:
        return name
    if _DNS_NAME.fullmatch(lower := name.lower()):
        return lower
    reason = "patterns are not matched: name each gateway" if "*" in name else "it is neither a DNS name nor a URI"
    raise ValueError(f"{name!r}: {reason}; write gateway.example.com or spiffe://example.com/gateway")


_RENAMED: Final = {"RATELIMIT_METRICS_LISTEN": "RATELIMIT_OPERATIONS_LISTEN"}
"""Variables of earlier versions, and those that replaced them."""


def renamed_variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each variable in ENVIRONMENT that has another name now, with what to write instead. None of them is a secret."""
    for name, value in sorted(environment.items()):
        if name.upper() in _RENAMED:
            yield name, f"{_RENAMED[name.upper()]}={value}"
