"""The reference is what the code is: the pages that are committed are those that `make docs` writes."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from docs.generate.__main__ import DOCS, FOLDER, pages
from docs.generate.logs import DYNAMIC, PACKAGE, meanings, written
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2, rate_limit_service_pb2
from ratelimit_service.settings import Settings

Pages: TypeAlias = Mapping[str, str]


@pytest.fixture(scope="module")
def fresh() -> Pages:
    """All generated pages, by their path below docs/."""
    return pages()


def test_the_pages_are_fresh(fresh: Pages) -> None:
    """After a change of a setting, a command, a proto or a reason, `make docs` writes its page anew."""
    stale = [path for path, text in fresh.items() if not (DOCS / path).is_file() or (DOCS / path).read_text() != text]
    assert stale == [], "run make docs, and commit these"


def test_nothing_else_is_in_the_folder(fresh: Pages) -> None:
    """What is in docs/reference is generated: a page of something that is gone would stay otherwise."""
    assert {file.relative_to(DOCS).as_posix() for file in (DOCS / FOLDER).rglob("*.md")} <= fresh.keys()


def test_each_setting_has_a_row(fresh: Pages) -> None:
    """Its variable, its default and its bounds."""
    page = fresh["reference/settings.md"]
    assert [name for name in Settings.model_fields if f"| `RATELIMIT_{name.upper()}` |" not in page] == []
    assert "| `RATELIMIT_LISTEN` | `127.0.0.1:50051` |" in page
    assert "1 to 64." in page


def test_each_event_of_the_log_has_a_row() -> None:
    """No event is missing or gone; those that are not literals are in the files that are named for them."""
    places = list(written())
    documented = {event for events in meanings().values() for event in events}
    literal = {place.text for place in places if place.text is not None}
    assert {place.module for place in places if place.text is None} == DYNAMIC.keys()
    assert documented == literal | {event for events in DYNAMIC.values() for event in events}
    for module, events in DYNAMIC.items():
        by = PACKAGE if module == "api.reasons" else PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
        sources = "".join(file.read_text() for file in (by.rglob("*.py") if by.is_dir() else [by]))
        assert [event for event in events if event not in sources] == [], module
    assert len(literal) > 70


def test_each_command_has_its_options(fresh: Pages) -> None:
    """Commands of groups too, with what they take from the environment."""
    page = fresh["reference/cli.md"]
    section = page.partition("\n### keys create\n")[2].partition("\n### ")[0]
    assert "ratelimit-service keys create [OPTIONS]" in section
    assert "| `--plan <str>` |" in section
    assert "RATELIMIT_TOKEN" in section
    assert "\n## serve\n" in page
    assert "\n### plans rollback\n" in page


@pytest.mark.parametrize("module", [key_admin_service_pb2, rate_limit_service_pb2])
def test_each_method_and_field_is_described(module: object, fresh: Pages) -> None:
    """All messages of a file have a heading, and all of their fields a row with a meaning and a type."""
    descriptor = module.DESCRIPTOR  # type: ignore[attr-defined]
    page = fresh[f"reference/api/{Path(descriptor.name).stem}.md"]
    for service in descriptor.services_by_name.values():
        assert f"\n## {service.name}\n" in page
        assert [method.name for method in service.methods if f"\n### {method.name}\n" not in page] == []
    for message in descriptor.message_types_by_name.values():
        section = page.partition(f"\n## {message.name}\n")[2].partition("\n## ")[0]
        assert section, message.name
        rows = {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}
        assert rows.keys() >= {field.name for field in message.fields}
        assert [name for name, row in rows.items() if row.rstrip("| ").endswith("|")] == []
