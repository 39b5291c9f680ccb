"""Values of the command line are converted as typer converts them, most of them without pydantic."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

from ratelimit_service.cli.conversion import convert_lazily


class Colour(StrEnum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


def command() -> Any:  # noqa: ANN401  typer's types are private
    """A command with an option of each kind, which returns their values."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def show(
        *,
        text: str = "x",
        number: Annotated[int, typer.Option(min=-5, max=1000)] = 7,
        clamped: Annotated[int, typer.Option(min=0, max=9, clamp=True)] = 1,
        many: Annotated[list[str] | None, typer.Option()] = None,
        numbers: Annotated[list[int] | None, typer.Option()] = None,
        colour: Colour = Colour.RED,
        any_case: Annotated[Colour, typer.Option(case_sensitive=False)] = Colour.RED,
        plane: Literal["all", "control"] = "all",
        seconds: float = 1.5,
        flag: bool = False,
        file: Annotated[typer.FileText | None, typer.Option()] = None,
        folder: Path | None = None,
        paths: Annotated[list[Path] | None, typer.Option(exists=True)] = None,
    ) -> object:
        read = file and (file.name, file.read())
        return text, number, clamped, many, numbers, colour, any_case, plane, seconds, flag, read, folder, paths

    return typer.main.get_command(app)


def outcome(command: Any, arguments: list[str]) -> object:  # noqa: ANN401  as above
    """What it returns, or the message of its error."""
    try:
        return command(arguments, standalone_mode=False)
    except Exception as error:  # noqa: BLE001  each is compared with that of the other
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        *(
            f"--number {number}"
            for number in ("5", "-5", "007", "1000", "1001", "-6", "1.5", "1.0", "x", "1_0", "\u0663")
        ),
        *(f"--clamped {number}" for number in ("4", "12")),
        *(f"--colour {colour}" for colour in ("blue", "BLUE", "green")),
        *(f"--any-case {colour}" for colour in ("blue", "BLUE", "green")),
        *(f"--plane {plane}" for plane in ("control", "none")),
        "--many a --many b",
        "--numbers 1 --numbers 2",
        "--seconds 2",
        "--text 5 --flag",
        *(f"--file {file}" for file in ("/dev/null", "/nowhere", "/")),
        *(f"--folder {folder}" for folder in ("/nowhere", "a//b/")),
        "--paths / --paths /tmp/",
        "--paths / --paths /nowhere/x",
    ],
)
def test_a_value_is_what_typer_makes_of_it(arguments: str) -> None:
    """Valid or not, with a message about the latter."""
    own, lazy = command(), command()
    convert_lazily(lazy, typer.Context(lazy))
    assert outcome(lazy, arguments.split()) == outcome(own, arguments.split())
