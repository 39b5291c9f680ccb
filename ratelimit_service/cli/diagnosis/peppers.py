"""The peppers."""

from collections.abc import Iterator

from ratelimit_service.cli.diagnosis.finding import Finding
from ratelimit_service.decision.secrets import Peppers
from ratelimit_service.settings import Settings


def examine_peppers(settings: Settings) -> Iterator[Finding]:
    """Whether the peppers can be read and are long enough."""
    text = settings.peppers.get_secret_value()
    if not text:
        yield Finding.fault(
            "peppers",
            "RATELIMIT_PEPPERS is not set; make one by `echo 1:$(openssl rand -base64 32)`, keep it as safe as a "
            "password, and give the same one to every server",
        )
        return
    try:
        versions = sorted(Peppers.parse(text).by_version)
    except ValueError as error:
        yield Finding.fault("peppers", f"RATELIMIT_PEPPERS: {error}")
    else:
        yield Finding.ok("peppers", f"version {versions[-1]} hashes new secrets; {len(versions)} in all")
