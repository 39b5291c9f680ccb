"""Least rights in Redis: what the service's user needs, and nothing that reads or removes what is not its own."""

from typing import Final

USER: Final = "ratelimit"

_KEYS: Final = ("{p*}:*", "{u}:*")
"""Buckets, results of requests and counts of a partition, and counts of usage on one server."""

_CHANNEL: Final = "ratelimit:returned"
"""On which scripts publish what they return to limits."""

_SCRIPTS: Final = ("eval", "evalsha")
_IN_SCRIPTS: Final = (
    *("time", "get", "mget", "set", "del", "unlink", "expire", "pttl", "rename"),
    *("hget", "hmget", "hset", "hexists", "hincrby", "llen", "lrem", "rpush"),
    "publish",
)
"""Redis checks the rights of the user for each command that a script calls."""

_USAGE: Final = ("hscan", "lrange")
"""How usage is read before it is moved to Postgres, beside `hmget` and `llen`."""

_CONNECTION: Final = ("ping", "select", "info", "subscribe")
"""Without `info` nobody knows that Redis runs out of memory until it has, and without `subscribe` what is returned to
limits, so that no denial is remembered."""

_CLUSTER: Final = ("cluster|slots", "asking")
_SENTINEL: Final = ("role",)
_COMMANDS: Final = (*_SCRIPTS, *_IN_SCRIPTS, *_USAGE, *_CONNECTION, *_CLUSTER, *_SENTINEL)


def rules() -> list[str]:
    """The rules of the user, as ACL SETUSER takes them, but for its password."""
    keys = [f"~{pattern}" for pattern in _KEYS]
    return ["reset", "on", "resetchannels", f"&{_CHANNEL}", *keys, "-@all", *(f"+{command}" for command in _COMMANDS)]


def acl() -> str:
    """The commands for redis-cli that create the user, with comments."""
    on_sentinels = "ACL SETUSER ratelimit reset on resetchannels -@all +sentinel|get-master-addr-by-name >PASSWORD"
    lines = [
        "# Redis 7 or Valkey; choose the password. Its URL: redis://ratelimit:PASSWORD@host:6379/0",
        f"ACL SETUSER {USER} {' '.join(rules())} >PASSWORD",
        "# On each Sentinel, if there are any (?sentinel_username and ?sentinel_password in the URL):",
        on_sentinels,
    ]
    return "\n".join(lines) + "\n"
