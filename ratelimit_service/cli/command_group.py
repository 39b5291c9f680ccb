"""Groups of commands: all with the same manners, and each loaded only when it is called.

A command that asks a server then starts without the database's libraries, which take longer to load than it to run.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


def command_group(summary: str) -> typer.Typer:
    """A group without commands yet."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=summary)


class LazyGroup(TyperGroup):
    """Loads a command when it is called.

    `places` says for each name where it is: `module:app`, a group, or `module:function`, one command.
    """

    places: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: object) -> list[str]:
        """The names, in the order in which help shows them."""
        del ctx
        return list(self.places)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ANN401  the type is in a private module of typer
        """Load a command. None when there is none of this name."""
        del ctx
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = command_group("")
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)
