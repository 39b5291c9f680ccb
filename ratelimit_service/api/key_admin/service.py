"""The methods of KeyAdminService, on any transport."""

from ratelimit_service.alerts.service import AlertService
from ratelimit_service.api.key_admin.alerts import ListAlerts, TestAlert
from ratelimit_service.api.key_admin.audit import ListAuditEvents
from ratelimit_service.api.key_admin.bulk_keys import BulkKeys
from ratelimit_service.api.key_admin.explain_limit import ExplainLimit
from ratelimit_service.api.key_admin.manage_enforcement import ManageEnforcement
from ratelimit_service.api.key_admin.manage_key import ManageKey
from ratelimit_service.api.key_admin.manage_override import ManageOverride
from ratelimit_service.api.key_admin.manage_plan import ManagePlan
from ratelimit_service.api.key_admin.manage_rules import ManageRules
from ratelimit_service.api.key_admin.query_usage import QueryUsage
from ratelimit_service.api.key_admin.simulate_plan import SimulatePlan
from ratelimit_service.decision.engine import DecisionEngine
from ratelimit_service.decision.ports import Clock
from ratelimit_service.management.audit import AuditService
from ratelimit_service.management.bulk_keys import BulkKeyService
from ratelimit_service.management.enforcement import EnforcementService
from ratelimit_service.management.keys import KeyService
from ratelimit_service.management.overrides import OverrideService
from ratelimit_service.management.plans import PlanService
from ratelimit_service.management.rules import RulesService
from ratelimit_service.usage.previews import ChangePreviews
from ratelimit_service.usage.query import UsageQueries
from ratelimit_service.usage.simulation import SimulationService


class KeyAdminService:
    """One callable for each method. Every error that they raise is a ServiceError."""

    def __init__(  # noqa: PLR0913, PLR0917  one for each thing that is managed
        self,
        keys: KeyService,
        bulk_keys: BulkKeyService,
        plans: PlanService,
        overrides: OverrideService,
        rules: RulesService,
        audit: AuditService,
        usage: UsageQueries,
        simulations: SimulationService,
        alerts: AlertService,
        enforcement: EnforcementService,
        engine: DecisionEngine,
        clock: Clock,
    ) -> None:
        self.manage_key = ManageKey(keys, BulkKeys(bulk_keys, clock), clock)
        previews = ChangePreviews(simulations, usage)
        self.manage_plan = ManagePlan(plans, previews)
        self.manage_override = ManageOverride(overrides, previews)
        self.manage_rules = ManageRules(rules, previews)
        self.explain_limit = ExplainLimit(engine)
        self.list_audit_events = ListAuditEvents(audit)
        self.query_usage = QueryUsage(usage)
        self.simulate_plan = SimulatePlan(simulations)
        self.list_alerts = ListAlerts(alerts)
        self.test_alert = TestAlert(alerts)
        self.manage_enforcement = ManageEnforcement(enforcement, clock)
