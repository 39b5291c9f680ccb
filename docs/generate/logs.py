"""The reference of the log: every event, by the code that writes it, with what it means."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from docs.generate.markdown import cell

PACKAGE: Final = Path(__file__).resolve().parent.parent.parent / "ratelimit_service"
_MEANINGS: Final = Path(__file__).with_name("log_events.yaml")
DYNAMIC: Final[Mapping[str, tuple[str, ...]]] = {
    "api.reasons": (
        "denied a request that is too large or malformed",
        "ignored what only a caller of role gateway may send",
    ),
    "buckets.redis.loss_watch": (
        "Redis has lost its data; what is known of quotas is raised again",
        "another Redis server has taken over; what is known of quotas is raised again",
    ),
    "decision.cache_invalidator": (
        "the change feed no longer has all changes since the last that was read; everything is read again",
        "a change came with a lower number than the one before it; everything is read again",
        "the change feed went back, as after a restore from a backup; everything is read again",
    ),
    "decision.enforcement": ("enforcement is off",),
}
"""Events that are not literals where they are written: those of each module."""

_LEVELS: Final = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}

_PAGE: Final = """# The log

Every process of a server writes its log to standard error: a line for each event, which never keeps a call waiting.
A reader that stops reading costs lines, not calls: beyond 1 MiB that waits, lines are dropped, and one says how
many.

| setting | what it does |
|---|---|
| `RATELIMIT_LOG_FORMAT` | `text` for people; `json` for collectors: an object a line |
| `RATELIMIT_LOG_LEVEL` | the minimum level: `debug`, `info`, `warning`, `error` |
| `RATELIMIT_ACCESS_LOG_SAMPLING` | the share of calls that get a line: [below](#the-access-log) |

## Levels

- **error**: something is broken, and somebody has to act: a process that ended, a row that cannot be read, an error
  of the service's own.
- **warning**: the service works around it, and says so: a store is away, calls fail, changes are late. Page by
  [metrics](../metrics.md) and their alerts ([runbook](../runbook.md)): lines are bounded in number, counters are not.
- **info**: what was done: processes that start and end, admin methods that were called, leases, the access log.
- **debug**: lines of libraries. The service has none of its own.

## Fields

Every line has `timestamp` (UTC, ISO 8601), `level`, `logger` (the file that wrote it, as below, after
`ratelimit_service.`) and `event`. An error of the service's own has `exception`, its traceback. Lines of a call
that is [traced](../tracing.md) have `trace_id` and `span_id`. Whatever else an event has is in its row below;
durations are seconds, but for `milliseconds`, and `..._us` are microseconds since 1970 UTC.

No line has the secret of an API key or a token, a password of a URL, or a pepper: no code logs one, and what has
the form of one is cut out of every line as the last safeguard, tracebacks included. The public part of a key
(`key_id`) may be there, and the name of a caller's token.

## The access log

One line, `access`, for a share of the calls to decide and to administer, drawn at random: with the same share for
traces the same calls. A process writes 100 lines a second at most, and then says how many it left out. On a stream
each group of checks that are decided together is a call.

| field | what it is |
|---|---|
| `method` | full name of the gRPC method |
| `caller` | name of the token or certificate, empty without one |
| `peer` | address of the other end of the connection: a gateway's, not its client's; empty for a group of a stream |
| `code` | gRPC code that the caller got; a denial is OK |
| `milliseconds` | from the headers to the response, with the wait for its turn |
| `error` | reason of the [error](../errors/README.md), if the call failed |
| `outcome` | `allowed` or `denied` |
| `reason`, `source` | why, and what has decided, as in the response |
| `limit` | name of the limit that bound the decision, if one did |
| `key_id`, `plan` | of the key, if it is known |
| `checks`, `denied`, `failed` | of a batch or a group of a stream with several checks: numbers, in place of the rest |
| `descriptors` | of Envoy's rate limit protocol: their number |

There are no resources, subjects, descriptors or headers in it: clients choose what is in these.

## Lines of others

| logger | of what |
|---|---|
| `grpc...` | the gRPC library: ten lines a second at most, of 1,000 characters |
| `uvicorn...` | requests by HTTP that are none: ten lines a second at most. With a stack, an error: report it |
| `asyncio` | an error of the service's own: report it |
| none, `[2026-11-27 10:00:00.000][12][warning]` | Envoy, one step quieter than `RATELIMIT_LOG_LEVEL` |
| none, `Fatal Python error`, `Thread 0x` | stacks of a process that crashed or hung: report them |

## Events
"""


class Written(NamedTuple):
    """One place that writes to the log. `text` is None where the event is not a literal."""

    module: str
    level: str
    text: str | None
    fields: tuple[str, ...]


def pages() -> dict[str, str]:
    """The page."""
    parts = [_PAGE]
    places = list(written())
    for title, events in meanings().items():
        parts.append(f"### {title}\n\n| event | level | logger | fields | what it means |\n|---|---|---|---|---|")
        parts += [_row(event, meaning, places) for event, meaning in events.items()]
        parts.append("")
    return {"reference/logs.md": "\n".join(parts)}


def meanings() -> Mapping[str, Mapping[str, str]]:
    """What each event means, by the title of its section."""
    found: dict[str, dict[str, str]] = yaml.safe_load(_MEANINGS.read_text(encoding="utf-8"))
    return found


def written() -> Iterator[Written]:
    """All places of the package that write to the log, by file and line."""
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (level := _level(node.func)) and node.args:
                first = node.args[0]
                text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
                fields = tuple(word.arg for word in node.keywords if word.arg and word.arg != "exc_info")
                yield Written(module, level, text, fields)


def _level(function: ast.expr) -> str:
    """The level that a call of FUNCTION writes at; empty if it is none of the log's."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "_log":
        return _LEVELS.get(function.attr, "")
    return "info or warning" if isinstance(function, ast.Name) and function.id == "log" else ""


def _row(event: str, meaning: str, places: list[Written]) -> str:
    of_event = [
        each for each in places if each.text == event or (each.text is None and event in DYNAMIC.get(each.module, ()))
    ]
    levels = ", ".join(dict.fromkeys(each.level for each in of_event))
    loggers = ", ".join(dict.fromkeys(f"`{each.module}`" for each in of_event))
    fields = ", ".join(dict.fromkeys(f"`{field}`" for each in of_event for field in each.fields))
    return f"| {cell(event)} | {levels} | {loggers} | {fields} | {cell(meaning)} |"
