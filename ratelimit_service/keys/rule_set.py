"""The descriptor rules of a domain as admins know them: versioned, with an etag."""

from dataclasses import dataclass

from ratelimit_service.decision.domain_rules import DomainRules
from ratelimit_service.errors import NotFound
from ratelimit_service.keys.etag import etag_of


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a domain's rules. Times are microseconds since 1970 UTC, `updated_us` that of the version."""

    rules: DomainRules
    version: int
    description: str
    created_us: int
    updated_us: int

    @property
    def domain(self) -> str:
        """The domain."""
        return self.rules.domain

    @property
    def target(self) -> str:
        """The name in audit events and errors."""
        return f"domains/{self.domain}"

    @property
    def etag(self) -> str:
        """Changes with every version, and is another one when a deleted domain is made again."""
        return etag_of("rules", self.domain, self.created_us, self.version)


def rules_not_found(domain: str, version: int = 0) -> NotFound:
    """Return the error for a domain that has no rules, or no such version of them."""
    what = "rules" if version == 0 else f"rules of version {version}"
    return NotFound(f"domain {domain!r} has no {what}", reason="RULES_NOT_FOUND", metadata={"domain": domain})
