"""The options of the commands on configuration in files."""

from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[
    list[Path],
    typer.Option(
        "-f",
        "--file",
        metavar="FILE|DIR",
        help="A YAML or JSON file of documents, a folder of such files, or `-` for standard input. May be repeated.",
    ),
]
