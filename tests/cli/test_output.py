"""What the command line prints of texts that callers and earlier versions chose."""

import pytest
import typer

from ratelimit_service.cli.errors import CommandError, report_errors
from ratelimit_service.cli.output import print_fields, print_table


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


def test_no_text_in_an_error_does(capsys: pytest.CaptureFixture[str]) -> None:
    """An error may repeat what a file has: a key that is given twice, for example."""
    with pytest.raises(typer.Exit), report_errors():
        raise CommandError.usage("plan.yaml, line 2: \x1b[31ma\u202eb is given twice")
    assert capsys.readouterr().err == "plan.yaml, line 2: \\x1b[31ma\\u202eb is given twice\n"
