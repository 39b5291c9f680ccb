"""What may be wrong with the way to a store. `doctor` knows what to do about each, without what a server needs."""

from enum import StrEnum


class Way(StrEnum):
    """What becomes of a connection to a store, whatever is sent on it."""

    HANGING = "does not answer, though connections are accepted"
    FAILING = "fails, though connections are accepted"
    REFUSED = "refuses connections"
    UNNAMED = "cannot be found by its name"
    SILENT = "accepts no connection in time"
    UNKNOWN = "does not answer"
