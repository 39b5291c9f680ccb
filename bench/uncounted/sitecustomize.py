"""Has every Python that finds this folder in PYTHONPATH count no usage: a benchmark measures what counting costs.

Python imports this module when it starts. There is no setting for it, since nobody should run a server that way.
"""

from ratelimit_service.decision import engine


def _count_nothing(*_: object) -> None:
    """Stand in for `Counted`: the charge counts for no series."""


engine.__dict__["Counted"] = _count_nothing
