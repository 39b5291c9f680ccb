"""Fixtures for every test: real stores and servers."""

pytest_plugins = [
    "fixtures.valkey",
    "fixtures.postgres",
    "fixtures.loose_postgres",
    "fixtures.dev_server",
    "fixtures.served",
    "fixtures.pages",
]
