"""All that `doctor` looks at, in the order in which one thing depends on another."""

from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from ratelimit_service.cli.configured import describe_setting_faults, with_dev_stores
from ratelimit_service.cli.diagnosis.door import examine_door
from ratelimit_service.cli.diagnosis.environment import examine_environment
from ratelimit_service.cli.diagnosis.finding import Finding, Verdict
from ratelimit_service.cli.diagnosis.peppers import examine_peppers
from ratelimit_service.cli.diagnosis.port import examine_ports
from ratelimit_service.cli.diagnosis.postgres import examine_postgres
from ratelimit_service.cli.diagnosis.redis import examine_redis
from ratelimit_service.cli.diagnosis.schema import examine_schema
from ratelimit_service.cli.diagnosis.tls import examine_tls
from ratelimit_service.settings import Settings


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything, as far as the settings can be read. ENVIRONMENT is what the settings were read from."""
    yield from examine_environment(environment)
    try:
        settings = with_dev_stores(Settings())
    except ValidationError as error:
        for line in describe_setting_faults(error):
            yield Finding.fault("settings", line)
        return
    yield Finding.ok("settings", "can be read")
    yield from examine_peppers(settings)
    postgres = list(examine_postgres(settings))
    yield from postgres
    if all(finding.verdict is not Verdict.FAULT for finding in postgres):
        yield from examine_schema(settings)
    for look in (examine_redis, examine_door, examine_tls, examine_ports):
        yield from look(settings)
