"""Every setting, in one place. Each is read from the environment variable RATELIMIT_<NAME>."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The settings of a server. `ratelimit-service doctor` says in words what is wrong with them."""

    model_config = SettingsConfigDict(env_prefix="RATELIMIT_", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        default=SecretStr(""),
        description="Postgres: `postgresql://user:password@host:5432/name`. `dev` starts its own.",
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""),
        description="Redis or Valkey: `redis://host:6379/0`, `rediss://...`, "
        "`redis+sentinel://h1:26379,h2:26379/name`, "
        "`redis+cluster://h1:6379,h2:6379`. `dev` starts its own.",
    )
    peppers: SecretStr = Field(
        default=SecretStr(""),
        description="Keys of the HMAC that secrets are stored under: `1:<base64>,2:<base64>`, each at least 32 bytes. "
        "New secrets use the highest number; keep the others until no key needs them. `dev` makes its own.",
    )
    listen: str = Field(default="127.0.0.1:50051", description="Address of the gRPC port.")
    metrics_listen: str = Field(
        default="127.0.0.1:9464", description="Address of the Prometheus /metrics port. Empty opens none."
    )
    transport: Literal["auto", "grpcio", "envoy"] = Field(
        default="auto", description="How calls come in. `auto` takes `envoy` where it is installed, else `grpcio`."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Server processes that share the gRPC port.")
    data_dir: Path = Field(
        default=Path(".ratelimit"), description="Where `dev` keeps its Postgres, Valkey and dev.json."
    )
    key_environment: str = Field(
        default="live", pattern="^[a-z0-9]{1,12}$", description="The <env> in new keys: `rlk_<env>_<id>_<secret>`."
    )
    protect_checks: bool = Field(
        default=False,
        description="Whether CheckLimit and Envoy's protocols need a token of role gateway. Only such a caller may "
        "send key_id.",
    )
    key_header: str = Field(
        default="x-api-key",
        pattern="^[a-z0-9][a-z0-9-]{0,63}$",
        description="Envoy's ext_authz: the header with the API key, in lower case. In `authorization` it comes after "
        "`Bearer`, in any other as it is. The upstream does not get it.",
    )
    limit_headers: str = Field(
        default="ietf",
        pattern="^(|(ietf|x-ratelimit|ratelimit)(,(ietf|x-ratelimit|ratelimit))*)$",
        description="Envoy's protocols: the headers that tell clients their limits. `ietf` (`RateLimit-Policy` and "
        "`RateLimit` of draft 11), `x-ratelimit` (`X-RateLimit-Limit`, `-Remaining`, `-Reset`), `ratelimit` (the same "
        "without `X-`), or several with commas. Empty tells none but `Retry-After`.",
    )
    request_id_window: float = Field(
        default=30, ge=1, le=3600, description="Seconds for which a request_id gets its first answer again."
    )
    store_timeout: float = Field(
        default=0.1,
        ge=0.001,
        le=5,
        description="Seconds that a decision waits for Redis before on_store_failure applies.",
    )
    policy_cache_size: int = Field(
        default=100_000,
        ge=1,
        description=(
            "Keys whose policy a server keeps in memory. It remembers at most twice as many of their requests."
        ),
    )
    unknown_key_ttl: float = Field(
        default=5, ge=0.1, le=300, description="Seconds for which an unknown key is not looked up again."
    )
    max_connection_age: float = Field(
        default=1800, ge=1, description="Seconds (give or take a tenth) after which a client connection is asked to go."
    )
    drain_timeout: float = Field(
        default=10, ge=0, le=300, description="Seconds that calls under way get after SIGTERM."
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the certificate chain. Empty serves plain text."
    )
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of the CA that client certificates must come from."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level logged."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="`text` for people, `json` for collectors.")
