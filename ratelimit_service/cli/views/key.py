"""Keys, as a person sees them."""

from collections.abc import Iterable

from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.cli.moments import format_moment
from ratelimit_service.cli.output import print_facts, print_table
from ratelimit_service.cli.views.override import describe_override


def print_key(key: Key) -> None:
    """Print all of one key."""
    print_facts(
        [
            ("key_id", key.key_id),
            ("subject", key.subject),
            ("plan", key.plan),
            ("state", Key.State.Name(key.state)),
            ("description", key.description),
            ("created", format_moment(key.create_time)),
            ("changed", format_moment(key.update_time)),
            ("expires", format_moment(key.expire_time)),
            ("old secret until", format_moment(key.previous_secret_expire_time)),
            ("etag", key.etag),
            *(("override", describe_override(override)) for override in key.overrides),
        ]
    )


def print_keys(keys: Iterable[Key]) -> None:
    """Print one line for each key."""
    print_table(
        ("KEY_ID", "SUBJECT", "PLAN", "STATE", "CREATED", "EXPIRES", "DESCRIPTION"),
        (
            (
                key.key_id,
                key.subject,
                key.plan,
                Key.State.Name(key.state),
                format_moment(key.create_time),
                format_moment(key.expire_time),
                key.description,
            )
            for key in keys
        ),
    )
