"""Values of the command line that are converted without pydantic, for which a command would wait at its start.

typer converts every value by pydantic, texts and defaults too. That takes longer than all else that `check` does.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")


class Plain:
    """In place of a parameter's own conversion: converts what is plain, and leaves all else to that, errors too."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401  typer's types are private
        """What VALUE is for the command. Raises as typer's own conversion does."""
        repeated = param.multiple or param.nargs == -1
        if value is None:
            return () if repeated else None
        if param.type_descriptor.is_file:
            return _opened(value, param, ctx)
        found = _list(value, param, ctx) if repeated else _one(value, param, ctx)
        if found is not None:
            return found
        param._runtime_param = None  # noqa: SLF001  see above
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def convert_lazily(command: Any, ctx: Any) -> None:  # noqa: ANN401  typer's types are private
    """Have COMMAND, called in CTX, import what converts values only for those that need it.

    This reaches into typer; where a version of it has no such conversion, nothing is changed. A test counts what is
    imported.
    """
    for param in command.get_params(ctx):
        if getattr(param, "_runtime_param", param) is None:
            param._runtime_param = Plain()  # noqa: SLF001  see above


def _opened(value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401  as above
    """A file, opened as typer does it, whose own way there imports pydantic first."""
    from typer._coercion import FileRuntimeParam  # noqa: PLC0415  few commands read files

    kind = param.type_descriptor
    return FileRuntimeParam(kind.parameter_info, kind.annotation, kind.file_annotation).coerce(value, param, ctx)


def _list(value: Any, param: Any, ctx: Any) -> list[Any] | None:  # noqa: ANN401  as above
    """A list of texts, or of paths. None for any other."""
    kind, info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
    if not isinstance(value, list | tuple) or info.parser is not None:
        return None
    if kind == list[str]:
        return list(value)
    return [_path(each, info, param, ctx) for each in value] if kind == list[Path] else None


def _one(value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401  as above
    """A default, a text, a path, a whole number in decimal digits and within its bounds, a choice. None for another."""
    if value is param.default:
        return value
    kind, info = param.type_descriptor.annotation, param.type_descriptor.parameter_info
    if not isinstance(value, str) or info.parser is not None:
        return None
    if kind is str:
        return value
    if kind is int:
        return _whole_number(value, info) if _WHOLE.fullmatch(value) else None
    if kind is Path:
        return _path(value, info, param, ctx)
    return _choice(value, kind)


def _path(text: str, info: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401  as above
    """A path, checked as typer does it, which makes one of a text by pydantic. Its messages name it without `//`."""
    from typer._param_types import coerce_cli_path  # noqa: PLC0415  few commands take one

    return coerce_cli_path(Path(text), info, path_type=Path, param=param, ctx=ctx)


def _whole_number(text: str, info: Any) -> int | None:  # noqa: ANN401  as above
    number = int(text)
    too_small, too_large = info.min is not None and number < info.min, info.max is not None and number > info.max
    return None if too_small or too_large else number


def _choice(text: str, kind: Any) -> Any:  # noqa: ANN401  as above
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next((member for member in kind if member.value == text), None)
    return text if get_origin(kind) is Literal and text in get_args(kind) else None
