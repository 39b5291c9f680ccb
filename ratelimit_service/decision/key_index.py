"""Finds the cached keys of a subject or plan by its name."""

from collections.abc import Collection


class KeyIndex:
    """Key ids by a name that many of them may share. Most subjects have one key, which takes no set of its own."""

    def __init__(self) -> None:
        self._ids: dict[str, str | set[str]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str, key_id: str) -> None:
        """Put a key under NAME."""
        ids = self._ids.get(name)
        if ids is None or ids == key_id:
            self._ids[name] = key_id
        elif isinstance(ids, str):
            self._ids[name] = {ids, key_id}
        else:
            ids.add(key_id)

    def remove(self, name: str, key_id: str) -> None:
        """Remove a key that was put under NAME."""
        ids = self._ids[name]
        if isinstance(ids, str):
            del self._ids[name]
            return
        ids.remove(key_id)
        if not ids:
            del self._ids[name]

    def get(self, name: str) -> Collection[str]:
        """A copy of the ids under NAME, in no order."""
        ids = self._ids.get(name, ())
        return (ids,) if isinstance(ids, str) else tuple(ids)
