"""What the command line prints of texts that callers and earlier versions chose."""

import sys

import pytest
import typer

from ratelimit_service.cli.errors import CommandError, report_errors
from ratelimit_service.cli.output import coloured, print_fields, print_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("acme\u202ephp.live", "acme\\u202ephp.live"),
        ("a\u200bb", "a\\u200bb"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\U000e0041b", "a\\U000e0041b"),
        ("[bold]ä 株\u3000x", "[bold]ä 株\u3000x"),
    ],
)
def test_no_text_changes_what_is_around_it(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Characters that reorder, hide or erase are printed as their escapes; all others as they are."""
    print_table(("SUBJECT", "PLAN"), [(text, "free")])
    print_fields([("subject", text)])
    printed = capsys.readouterr().out
    assert printed.count(shown) == 2
    assert not {"\u202e", "\u200b", "\x1b"} & set(printed)


@pytest.mark.parametrize(
    "text",
    [r"orders\[/b]", r"\[link=https://x.example]orders\[/link]", "[bold]orders[/bold]", "[/]", ":heart: @ 1", "a\\"],
)
def test_no_text_is_markup_on_a_terminal(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers choose resources: none of them ends a command with an error there, nor becomes a link or another text."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    print_table(("RESOURCE", "CALLS"), [(text, "1")])
    print_fields([("resource", text)])
    printed = capsys.readouterr().out
    assert printed.count(text) == 2
    assert "\x1b]" not in printed


def test_no_text_in_an_error_does(capsys: pytest.CaptureFixture[str]) -> None:
    """An error may repeat what a file has: a key that is given twice, for example."""
    with pytest.raises(typer.Exit), report_errors():
        raise CommandError.usage("plan.yaml, line 2: \x1b[31ma\u202eb is given twice")
    assert capsys.readouterr().err == "plan.yaml, line 2: \\x1b[31ma\\u202eb is given twice\n"


def test_columns_are_aligned_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is one line, and the columns begin at one place: wide letters take two, marks none."""
    print_table(("A", "B"), [("x", "1"), ("株式", "2"), ("a\u0308", "3"), ("a\nb", "4")])
    assert capsys.readouterr().out.splitlines() == ["A     B", "x     1", "株式  2", "a\u0308     3", "a\\nb  4"]


@pytest.mark.parametrize(("variables", "coloured_text"), [({}, "\x1b[32mok\x1b[0m"), ({"NO_COLOR": "1"}, "ok")])
def test_colour_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured_text: str
) -> None:
    """Colours are used on a terminal only, and not if NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured("ok", "green") == "ok"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert coloured("ok", "green") == coloured_text
