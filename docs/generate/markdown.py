"""Texts of the code as Markdown that says the same."""


def prose(text: str) -> str:
    """TEXT as paragraphs, which blank lines separate. What Markdown would take for a tag or emphasis is escaped."""
    return "\n\n".join(_escaped(" ".join(part.split())) for part in text.strip().split("\n\n"))


def cell(text: str) -> str:
    """The same in a cell of a table, where a line ends the row and a | the cell."""
    return prose(text).replace("|", "\\|").replace("\n\n", "<br>")


def _escaped(text: str) -> str:
    parts = text.split("`")
    parts[::2] = [part.replace("<", "\\<").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
