"""`doctor` without `--server`: the checks of settings and stores, before a server starts with them."""

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from ratelimit_service.cli.doctor.findings import Finding, Severity
from ratelimit_service.cli.doctor.server import check_server
from ratelimit_service.cli.doctor.settings import (
    check_console,
    check_descriptors,
    check_open_ports,
    check_peppers,
    check_planes,
    check_ports,
    check_tls,
    check_tracing,
    check_transport,
    check_variables,
    check_webhook,
)
from ratelimit_service.cli.doctor.stores import check_decision_database, check_postgres, check_redis, check_schema
from ratelimit_service.cli.environment import describe_setting_errors, with_dev_stores
from ratelimit_service.settings import Settings


def run_checks(environment: Mapping[str, str]) -> Iterator[Finding]:
    """All checks, as far as the settings can be read. ENVIRONMENT is what the settings are read from."""
    yield from check_variables(environment)
    try:
        settings = with_dev_stores(Settings())
    except ValidationError as error:
        for line in describe_setting_errors(error):
            yield Finding.error("settings", line)
        return
    yield Finding.ok("settings", "valid")
    yield from check_planes(settings)
    yield from check_peppers(settings)
    postgres = list(check_postgres(settings))
    yield from postgres
    works = all(finding.severity is not Severity.ERROR for finding in postgres)
    if works:
        yield from check_schema(settings)
    if works or settings.database_variable != settings.decision_database_variable:  # the other may answer
        yield from check_decision_database(settings)
    for check in (
        *(check_redis, check_transport, check_tls, check_descriptors),
        *(check_ports, check_server, check_open_ports, check_console, check_webhook, check_tracing),
    ):
        yield from check(settings)
