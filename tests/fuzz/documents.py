"""Targets that take a document: YAML, messages in files, the console's editor, and files of envoyproxy/ratelimit."""

import io
import json
import re
from contextlib import suppress

from fuzz.harness import Target
from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageKeyRequest
from ratelimit_service._gen.ratelimit.v1.plan_pb2 import Plan
from ratelimit_service.api.key_admin.rules_messages import rules_from_proto, rules_to_proto
from ratelimit_service.bounded_yaml import YamlError, plain, read_yaml
from ratelimit_service.cli.errors import CommandError
from ratelimit_service.cli.key_files import read_drafts
from ratelimit_service.cli.message_file import read_message
from ratelimit_service.console.documents import read_rules, rules_yaml
from ratelimit_service.errors import InvalidArgument
from ratelimit_service.rules_import.findings import Findings
from ratelimit_service.rules_import.importer import import_files, to_quota, to_token_bucket

_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"')
_MAX_KEY = 1_000  # libyaml reads keys of at most 1,024 characters, as they are written
_LINE_ENDS = re.compile("[\n\r\x85\u2028\u2029]")
_PLAN = b"""name: team
limits:
  - name: burst
    token_bucket: {capacity: 100, refill_tokens: 50, refill_period: 1.5s}
  - {name: daily, quota: {amount: 7, window: DAY}, mode: SHADOW}
on_store_failure: DENY
"""
_RULES = b"""domain: edge
on_store_failure: FAIL
descriptors:
  - key: remote_address
    value: "10.*"
    limits: [{name: burst, token_bucket: {capacity: 20, refill_tokens: 10, refill_period: 1s}}]
    descriptors: [{key: path, limits: [{unlimited: {}}]}]
"""
_IMPORTED = b"""domain: d
descriptors:
- key: k
  value: 1.10
  shadow_mode: yes
  rate_limit: {unit: day, requests_per_unit: 0x10, name: n, replaces: [{name: m}]}
  descriptors: [{key: b, rate_limit: {unlimited: true}}]
"""
_BOMBS = [
    b"a: &a [x]\nb: *a\n",
    b"a: {<<: {b: 1}}\n",
    b"a: 1:2:3\nb: 010\nc: .inf\n",
    b"[" * 100,
    b"? " * 50,
    b"- " * 80,
    b'{"a": "\\ud83d\\ude00"}',
    b"%YAML 1.1\n---\na: !!set {b}\n",
    b"a: |\n  b\nc: >-\n  d\n",
]


def documents(data: bytes) -> None:
    """Any text is a document within bounds, or an error with a line of it; what is read is written and read as JSON."""
    text = data.decode("utf-8", "replace")
    line, value = 1, None
    try:
        value = plain(read_yaml(text))
    except YamlError as error:
        line = error.line
    assert 1 <= line <= len(_LINE_ENDS.findall(text)) + 2
    written = json.dumps(value)
    if all(len(text) <= _MAX_KEY for text in _TEXTS.findall(written)):
        assert plain(read_yaml(written)) == value


def message_files(data: bytes) -> None:
    """Any file of a plan or of keys is read, or is an error in words."""
    text = data.decode("utf-8", "replace")
    for name in ("a.yaml", "a.csv"):
        with suppress(CommandError):
            read_drafts(_file(text, name), ManageKeyRequest.CreateKey(plan="free"))
    with suppress(CommandError):
        read_message(_file(text, "a.yaml"), Plan(), "a plan")


def edited_rules(data: bytes) -> None:
    """Any document in the console's editor is rules, which are written and read as the same, or an invalid argument."""
    try:
        rules, description = read_rules(data.decode("utf-8", "replace"))
    except InvalidArgument:
        return
    assert read_rules(rules_yaml(rules, description)) == (rules, description)


def imported_rules(data: bytes) -> None:
    """Any file of envoyproxy/ratelimit is imported to rules that the API takes, or is an error with its line."""
    text = data.decode("utf-8", "replace")
    for convert in (to_quota, to_token_bucket):
        findings = Findings()
        imported = import_files([("f", text)], convert, findings)
        assert imported or findings.has_errors
        if not findings.has_errors:
            for rules in imported:
                assert rules_from_proto(rules_to_proto(rules)) == rules


def _file(text: str, name: str) -> io.StringIO:
    file = io.StringIO(text)
    file.name = name
    return file


TARGETS = [
    Target("documents", documents, [_PLAN, _RULES, *_BOMBS], 2_048),
    Target(
        "message_files", message_files, [_PLAN, b"subject,plan\nx,free\n", b"- {subject: a, labels: {b: c}}\n", *_BOMBS]
    ),
    Target("edited_rules", edited_rules, [_RULES, *_BOMBS], 2_048),
    Target("imported_rules", imported_rules, [_IMPORTED, *_BOMBS], 2_048),
]
