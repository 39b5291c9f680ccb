"""Values of descriptor rules with `*`."""


class Wildcard:
    """A value with `*` in it, each of which stands for any characters, or none.

    Each text between two stars is taken where it comes first. That finds a match if there is one, since it leaves most
    of the value to the texts that follow; so matching costs one search for each text, whatever clients send.
    """

    __slots__ = ("_begins", "_ends", "_length", "_within")

    def __init__(self, value: str) -> None:
        self._begins, *self._within, self._ends = value.split("*")
        self._length = len(value) - value.count("*")

    def matches(self, value: str) -> bool:
        """Whether VALUE is one of those that it stands for."""
        if len(value) < self._length or not (value.startswith(self._begins) and value.endswith(self._ends)):
            return False
        at, end = len(self._begins), len(value) - len(self._ends)
        for text in self._within:
            at = value.find(text, at, end)
            if at < 0:
                return False
            at += len(text)
        return True
