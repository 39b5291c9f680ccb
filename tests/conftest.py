"""Fixtures for every test: real stores and servers."""

from hypothesis import HealthCheck, settings

# A machine with other work may take a second for an example: time says nothing about what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

pytest_plugins = [
    "fixtures.valkey",
    "fixtures.postgres",
    "fixtures.loose_postgres",
    "fixtures.dev_server",
    "fixtures.served",
    "fixtures.pages",
]
