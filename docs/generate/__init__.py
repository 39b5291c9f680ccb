"""The pages of the reference, written from the code itself: `python -m docs.generate`, or `make docs`.

Each module of pages has `pages()`: the texts by their path below `docs/`. They are committed, so that they can be read
without building anything, and tests compare them with fresh ones. So is the dashboard.
"""
