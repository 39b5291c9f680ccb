"""Values of the command line that need no conversion: with them, a command does not wait for pydantic to be imported.

typer converts every value by pydantic, texts and defaults too. That takes longer than all else that `check` does.
"""

from typing import Any


class AsItIs:
    """In place of a parameter's own conversion: returns texts and defaults as they are, and leaves others to that."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401  typer's types are private
        """What VALUE is for the command. Raises as typer's own conversion does."""
        repeated = param.multiple or param.nargs == -1
        annotation = param.type_descriptor.annotation
        if value is None:
            return () if repeated else None
        if not repeated and ((annotation is str and isinstance(value, str)) or value is param.default):
            return value
        if repeated and annotation == list[str] and isinstance(value, list | tuple):
            return list(value)
        param._runtime_param = None  # noqa: SLF001  see above
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def convert_lazily(command: Any, ctx: Any) -> None:  # noqa: ANN401  typer's types are private
    """Have COMMAND, called in CTX, and all commands in it, import what converts values only for those that need it.

    This reaches into typer; where a version of it has no such conversion, nothing is changed. A test counts what is
    imported.
    """
    for param in command.get_params(ctx):
        if getattr(param, "_runtime_param", param) is None:
            param._runtime_param = AsItIs()  # noqa: SLF001  see above
    for below in getattr(command, "commands", {}).values():
        convert_lazily(below, ctx)
