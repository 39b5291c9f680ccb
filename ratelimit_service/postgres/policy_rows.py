"""The rows of a key as a policy record: each part is decoded for itself, so that a bad row harms that part alone."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Any, Final, NamedTuple

from ratelimit_service.decision.api_key import is_environment
from ratelimit_service.decision.limit import Limit
from ratelimit_service.decision.lru import LruCache
from ratelimit_service.decision.record import (
    KeyState,
    OnStoreFailure,
    Override,
    PartialRecord,
    PolicyRecord,
    RecordFields,
    SecretHash,
)
from ratelimit_service.management.documents import Document, limit_from_document
from ratelimit_service.management.overrides import MAX_OVERRIDES
from ratelimit_service.management.plans import check_limits, check_plan_name
from ratelimit_service.management.text import check_stored_subject
from ratelimit_service.postgres.unreadable_rows import UnreadableRows

MAX_DOCUMENT: Final = 65_536
"""Characters of a plan's limits, and of the overrides of one subject or key: several times what the API allows."""

MAX_SECRETS: Final = 16
"""Secrets of a key that are read: several times what the API allows."""

MAX_TEXT: Final = 256
"""Characters of any other text: no name is as long."""

_MAX_PLANS: Final = 1_000
"""Plans whose limits are kept decoded, and as many whose last valid limits are remembered."""

_MAX_OVERRIDES: Final = 500  # texts of overrides that are kept decoded, of up to 16 overrides each
_DIGEST_BYTES: Final = 32
_MAX_PEPPER: Final = 2**31
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)
_LONG_AGO: Final = 0


class PolicyRow(NamedTuple):
    """What the statement of `policy_source` returns of a key. Texts are cut off one character after their bound."""

    key_id: str
    subject: str | None
    state: str | None
    expire_time: str | None
    secrets: list[tuple[int | None, str, str | None, str | None]] | None
    plan_id: int | None
    plan: str | None
    version: int | None
    on_store_failure: str | None
    limits: str | None
    subject_overrides: str | None
    key_overrides: str | None


class PolicyRows:
    """Decodes the rows of keys, and reports those that are not valid.

    Of a plan whose row is not valid, the limits that were valid last are in force for all its keys, those that were not
    in use before included.
    """

    def __init__(self, unreadable: UnreadableRows) -> None:
        self._unreadable = unreadable
        self._limits: LruCache[int, tuple[str, tuple[Limit, ...]]] = LruCache(_MAX_PLANS)
        self._last_plans: LruCache[int, RecordFields] = LruCache(_MAX_PLANS)
        self._overrides: LruCache[str, tuple[Override, ...]] = LruCache(_MAX_OVERRIDES)

    def decode(
        self, row: PolicyRow, limits: str | None, subject_overrides: str | None, reported: set[str]
    ) -> PolicyRecord | PartialRecord:
        """The record of a key, or what could be read of it.

        LIMITS are those of its plan and SUBJECT_OVERRIDES those of its subject, which come with one of their keys. What
        is REPORTED already, in the same read, is not reported again.
        """
        fields = RecordFields()
        problems: list[tuple[str, str, str]] = []

        def read(table: str, name: str, decode: Callable[[], RecordFields], which: str = "") -> None:
            try:
                fields.update(decode())
            except Exception as error:  # noqa: BLE001 whatever is wrong with a row, it must harm that row alone
                problems.append((table, name, f"{which}{type(error).__name__}: {error}"))
            else:
                self._unreadable.readable(table, name)

        key = f"key {row.key_id}"
        read("keys", key, lambda: RecordFields(subject=_subject(row.subject)))
        read("keys", key, lambda: RecordFields(state=KeyState(row.state)))
        read("keys", key, lambda: RecordFields(expires_us=microseconds(row.expire_time)))
        if row.plan_id is None:
            problems.append(("keys", key, "there is no such plan"))
        else:
            read("plan_versions", _plan_name(row), lambda: self._plan(row, limits), f"version {row.version}: ")
        read(
            "overrides",
            f"subject {row.subject!r}",
            lambda: RecordFields(subject_overrides=self._decoded_overrides(subject_overrides)),
        )
        if not fields.keys() >= {"subject", "subject_overrides"}:  # only together: they are of one subject
            fields.pop("subject", None)
            fields.pop("subject_overrides", None)
        read("overrides", key, lambda: RecordFields(key_overrides=self._decoded_overrides(row.key_overrides)))
        unread_digests = self._secrets(row, fields, problems)
        if not problems:
            return PolicyRecord(row.key_id, **fields)
        for table, name, why in problems:
            if (what := f"{table} {name}") not in reported or table == "keys":
                reported.add(what)
                self._unreadable.report(table, name, why)
        last_plan = None if "limits" in fields or row.plan_id is None else self._last_plans.get(row.plan_id)
        if last_plan is not None:
            fields.update(last_plan)
        return PartialRecord(row.key_id, fields, unread_digests)

    def _plan(self, row: PolicyRow, limits: str | None) -> RecordFields:
        if row.plan_id is None or row.plan is None:
            raise ValueError("it has no name")
        check_plan_name("plan", row.plan)
        if row.version is None or row.version < 1 or limits is None:
            raise ValueError("there is no row for the version in force")
        plan = RecordFields(
            plan=intern(row.plan),  # one text for all its keys
            plan_version=row.version,
            on_store_failure=OnStoreFailure(row.on_store_failure),
            limits=self._decoded_limits(row.plan_id, limits),
        )
        if self._last_plans.get(row.plan_id) != plan:
            self._last_plans.put(row.plan_id, plan)
        return plan

    def _decoded_limits(self, plan_id: int, text: str) -> tuple[Limit, ...]:
        """The limits of a plan, the same objects for all its keys, which may be a hundred thousand."""
        known = self._limits.get(plan_id)
        if known is None or known[0] != text:
            documents = _list(text)
            limits = tuple(limit_from_document(document) for document in documents)
            check_limits(limits)
            known = (text, limits)
            self._limits.put(plan_id, known)
        return known[1]

    def _decoded_overrides(self, text: str | None) -> tuple[Override, ...]:
        """The overrides of a subject or key, the same objects for all keys that have the same."""
        if text is None:
            return ()
        known = self._overrides.get(text)
        if known is None:
            rows: Sequence[tuple[str, Document, str | None]] = _list(text)
            if len(rows) > MAX_OVERRIDES:
                raise ValueError(f"there are more than {MAX_OVERRIDES}")
            known = tuple(_override(*row) for row in rows)
            self._overrides.put(text, known)
        return known

    def _secrets(self, row: PolicyRow, fields: RecordFields, problems: list[tuple[str, str, str]]) -> frozenset[bytes]:
        """Put the secrets that can be read into FIELDS, and return the digests of the others."""
        read: list[SecretHash] = []
        unread: set[bytes] = set()
        for position, (version, digest, expire_time, environment) in enumerate(row.secrets or ()):
            try:
                _check_position(position)
                read.append(_secret(version, digest, expire_time, environment))
            except Exception as error:  # noqa: BLE001 as above
                unread.add(bytes.fromhex(digest))
                problems.append(("key_secrets", f"key {row.key_id}", f"{type(error).__name__}: {error}"))
        if not unread:
            self._unreadable.readable("key_secrets", f"key {row.key_id}")
        fields["secrets"] = tuple(read)
        return frozenset(unread)


def microseconds(time: str | None) -> int | None:
    """A time of Postgres, in ISO 8601, as microseconds since 1970 UTC.

    One before the year 1 has passed, so it is 0; raises ValueError for any other that Python cannot represent.
    """
    if time is None:
        return None
    return (
        _LONG_AGO if time == "-infinity" or time.endswith(" BC") else (datetime.fromisoformat(time) - _EPOCH) // _TICK
    )


def _subject(subject: str | None) -> str:
    if subject is None:
        raise ValueError("it has no subject")
    check_stored_subject(subject)
    return subject


def _plan_name(row: PolicyRow) -> str:
    return f"plan {row.plan!r} (id {row.plan_id})"


def _list(text: str) -> Sequence[Any]:
    if len(text) > MAX_DOCUMENT:
        raise ValueError(f"it has more than {MAX_DOCUMENT:,} characters")
    documents = json.loads(text)
    if not isinstance(documents, list):
        raise TypeError(f"it must be a list, not {type(documents).__name__}")
    return documents


def _override(name: str, document: Document, expire_time: str | None) -> Override:
    limit = limit_from_document(document)
    if limit.name != name:
        raise ValueError(f"the row of limit {name!r} has the limit {limit.name!r}")
    return Override(limit, microseconds(expire_time))


def _check_position(position: int) -> None:
    if position >= MAX_SECRETS:
        raise ValueError(f"the key has more than {MAX_SECRETS}")


def _secret(version: int | None, digest: str, expire_time: str | None, environment: str | None) -> SecretHash:
    if version is None or not 1 <= version < _MAX_PEPPER:
        raise ValueError(f"its pepper version is {version}")
    if len(digest) != 2 * _DIGEST_BYTES:
        raise ValueError(f"its digest has {len(digest) // 2} bytes, not {_DIGEST_BYTES}")
    if environment is not None and not is_environment(environment):
        raise ValueError(f"its environment is {environment!r}")
    return SecretHash(
        version, bytes.fromhex(digest), microseconds(expire_time), None if environment is None else intern(environment)
    )
