"""Many keys at once on the command line: in calls of at most 1,000 that fit, with a line for each key."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias, TypeVar

import typer

from ratelimit_service._gen.ratelimit.v1.errors_pb2 import ErrorReason
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest, ManageKeyResponse
from ratelimit_service._gen.ratelimit.v1.key_pb2 import Key
from ratelimit_service.cli.client import Client
from ratelimit_service.cli.errors import CommandError, Exit
from ratelimit_service.cli.output import print_json, print_table

_MAX_ITEMS = 1000
_MAX_BYTES = 900_000
"""Bytes of the items of one call, below the 1 MB that a message may have."""

T = TypeVar("T")

StateChange: TypeAlias = Literal["suspend", "resume", "revoke"]
"""What a command does to the state of keys: the name of its action, which for many keys begins with `bulk_`."""


def create_keys(client: Client, drafts: Sequence[ManageKeyRequest.CreateKey], *, as_json: bool) -> None:
    """Create keys and print them with their secrets, also when a later call fails.

    Raises CommandError when some were not created.
    """
    created = ManageKeyResponse.BulkCreatedKeys()

    def call(chunk: Sequence[ManageKeyRequest.CreateKey]) -> None:
        request = ManageKeyRequest(bulk_create=ManageKeyRequest.BulkCreateKeys(keys=chunk))
        created.MergeFrom(client.manage_key(request).bulk_create)

    failure = _call_all(drafts, call, lambda draft: draft.ByteSize() + 8)
    if as_json:
        print_json(created)
    else:
        print_table(
            ("KEY_ID", "SUBJECT", "PLAN", "API_KEY", "ERROR"),
            (_created_row(draft, result) for draft, result in zip(drafts, created.results, strict=False)),
        )
        if any(result.created.secret for result in created.results):
            typer.echo("\nThe API keys are shown now and never again.", err=True)
    failed = sum(result.HasField("error") for result in created.results)
    _report(len(drafts), failed, len(created.results), "created", failure)


def change_keys(client: Client, action: StateChange, key_ids: Sequence[str], *, as_json: bool) -> None:
    """Change the state of keys and print them. Raises CommandError when some were not changed."""
    changed = ManageKeyResponse.BulkResults()

    def call(chunk: Sequence[str]) -> None:
        request = ManageKeyRequest()
        getattr(request, f"bulk_{action}").key_ids.extend(chunk)
        changed.MergeFrom(getattr(client.manage_key(request), f"bulk_{action}"))

    failure = _call_all(key_ids, call, lambda key_id: len(key_id.encode()) + 8)
    if as_json:
        print_json(changed)
    else:
        print_table(
            ("KEY_ID", "SUBJECT", "PLAN", "STATE", "ERROR"),
            (_changed_row(key_id, result) for key_id, result in zip(key_ids, changed.results, strict=False)),
        )
    failed = sum(result.HasField("error") for result in changed.results)
    _report(len(key_ids), failed, len(changed.results), "changed", failure)


def _call_all(items: Sequence[T], call: Callable[[Sequence[T]], None], size: Callable[[T], int]) -> CommandError | None:
    """Make the calls until one of them fails, and return its error. SIZE is that of an item, in bytes."""
    for chunk in _chunks(items, size):
        try:
            call(chunk)
        except CommandError as error:
            return error
    return None


def _chunks(items: Sequence[T], size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    chunk: list[T] = []
    filled = 0
    for item in items:
        if chunk and (len(chunk) == _MAX_ITEMS or filled + size(item) > _MAX_BYTES):
            yield chunk
            chunk, filled = [], 0
        chunk.append(item)
        filled += size(item)
    if chunk:
        yield chunk


def _created_row(draft: ManageKeyRequest.CreateKey, result: ManageKeyResponse.BulkCreatedKeys.Result) -> Sequence[str]:
    made = result.created
    return made.key.key_id, draft.subject, draft.plan, made.secret, _error(result.error)


def _changed_row(key_id: str, result: ManageKeyResponse.BulkResults.Result) -> Sequence[str]:
    if result.HasField("error"):
        return key_id, "", "", "", _error(result.error)
    return key_id, result.key.subject, result.key.plan, Key.State.Name(result.key.state), ""


def _error(error: ManageKeyResponse.BulkError) -> str:
    return f"{ErrorReason.Name(error.reason)}: {error.message}" if error.reason else ""


def _report(total: int, failed: int, answered: int, done: str, failure: CommandError | None) -> None:
    """Raise CommandError unless all of the items succeeded."""
    if failure is not None:
        unknown = total - answered
        line = f"{failed} of the first {answered} keys were not {done}; the call for the other {unknown} failed:"
        raise CommandError(failure.exit_code, *([line] if answered else []), *failure.lines)
    if failed:
        raise CommandError(Exit.REFUSED, f"{failed} of {total} keys were not {done}")
