"""What `dev` creates in an empty database: two plans, a demo key and an admin token. Existing ones stay."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ratelimit_service.decision.api_key import ApiKey, Peppers
from ratelimit_service.decision.limit import MICRO, Limit, Quota, TokenBucket, Window
from ratelimit_service.decision.record import KeyState, OnStoreFailure
from ratelimit_service.devstores.state import DevState
from ratelimit_service.errors import AlreadyExists, InvalidArgument, NotFound, Unauthenticated
from ratelimit_service.management.keys import KeyDraft, KeyService
from ratelimit_service.management.plans import PlanDraft, PlanService
from ratelimit_service.management.tokens import LOCAL, Role, TokenService

_DEMO_SUBJECT = "demo"
_DEMO_PLAN = "free"
_TOKEN_NAME = "dev"  # noqa: S105  the name of a token, not a token

_PLANS: Sequence[PlanDraft] = (
    PlanDraft(
        name=_DEMO_PLAN,
        limits=(
            Limit("burst", TokenBucket(capacity=20, refill_tokens=10, refill_period_us=MICRO)),
            Limit("daily", Quota(10_000, Window.DAY)),
        ),
        on_store_failure=OnStoreFailure.LOCAL,
        description="To try things out",
    ),
    PlanDraft(
        name="pro",
        limits=(
            Limit("burst", TokenBucket(capacity=200, refill_tokens=100, refill_period_us=MICRO)),
            Limit("monthly", Quota(5_000_000, Window.MONTH)),
        ),
        on_store_failure=OnStoreFailure.LOCAL,
        description="For paying customers",
    ),
)


@dataclass(frozen=True, slots=True)
class Seed:
    """Creates what is missing. Every method raises Unavailable when Postgres is unavailable."""

    plans: PlanService
    keys: KeyService
    tokens: TokenService
    peppers: Peppers

    async def ensure_plans(self) -> None:
        """Create the missing plans. Existing ones stay as they are, changed or not."""
        for draft in _PLANS:
            try:
                await self.plans.create(LOCAL.name, draft)
            except AlreadyExists:
                continue

    async def ensure_key(self, kept: DevState | None) -> str:
        """The demo key of the last start while it is valid, otherwise a new one."""
        if kept is not None and await self._is_valid(kept.api_key):
            return kept.api_key
        draft = KeyDraft(plan=_DEMO_PLAN, subject=_DEMO_SUBJECT, description="Demo key created by dev", expires_us=None)
        _, api_key = await self.keys.create(LOCAL.name, draft)
        return str(api_key)

    async def ensure_token(self, kept: DevState | None) -> str:
        """The admin token of the last start while it is valid, otherwise a new one in its place."""
        if kept is not None:
            with suppress(Unauthenticated):
                if (await self.tokens.authenticate(kept.admin_token)).role is Role.ADMIN:
                    return kept.admin_token
        with suppress(InvalidArgument):  # no token of this name, as in an empty database
            await self.tokens.revoke(_TOKEN_NAME)
        return await self.tokens.create(_TOKEN_NAME, Role.ADMIN)

    async def _is_valid(self, text: str) -> bool:
        api_key = ApiKey.parse(text)
        if api_key is None:
            return False
        try:
            key = await self.keys.get(api_key.key_id)
        except NotFound:
            return False
        current = any(self.peppers.matches(api_key, secret) for secret in key.secrets)
        return current and key.state is not KeyState.REVOKED
