"""ManageRules."""

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest, ManageRulesResponse
from ratelimit_service.doors.admin.fields import no_action, require_message, under
from ratelimit_service.doors.admin.rules_messages import from_rule_set, to_domain_rules
from ratelimit_service.doors.authentication import require
from ratelimit_service.keys.page import Paging
from ratelimit_service.keys.rule_set import RuleSet
from ratelimit_service.keys.rules_service import RulesService
from ratelimit_service.keys.token import Caller, Role

_READS = frozenset({"get", "list"})


class ManageRules:
    """Does one thing to the descriptor rules of a domain."""

    def __init__(self, rules: RulesService) -> None:
        self._rules = rules

    async def __call__(self, request: ManageRulesRequest, caller: Caller) -> ManageRulesResponse:
        """Do what the request's action says, if the caller's role allows it. Raises ServiceError."""
        action = request.WhichOneof("action")
        require(caller, Role.VIEWER if action in _READS else Role.ADMIN)
        if action is None:
            raise no_action("replace", "get", "list", "delete")
        with under(action):
            match action:
                case "replace":
                    return ManageRulesResponse(replace=_result(await self._replace(request.replace, caller)))
                case "get":
                    rules = await self._rules.get(request.get.domain, version=request.get.version)
                    return ManageRulesResponse(get=_result(rules))
                case "list":
                    return await self._list(request.list)
                case "delete":
                    deleted = await self._rules.delete(caller.name, request.delete.domain, etag=request.delete.etag)
                    return ManageRulesResponse(delete=_result(deleted))

    async def _replace(self, request: ManageRulesRequest.ReplaceRules, caller: Caller) -> RuleSet:
        require_message("rules", present=request.HasField("rules"))
        message = request.rules
        with under("rules"):
            rules = to_domain_rules(message)
            if request.validate_only:
                return await self._rules.check(rules, description=message.description, etag=message.etag)
            return await self._rules.replace(caller.name, rules, description=message.description, etag=message.etag)

    async def _list(self, request: ManageRulesRequest.ListRules) -> ManageRulesResponse:
        page = await self._rules.list(Paging(request.page_size, request.page_token))
        response = ManageRulesResponse.RulesPage(next_page_token=page.next_page_token)
        for rules in page.items:
            message = from_rule_set(rules)
            message.ClearField("descriptors")
            response.domains.append(message)
        return ManageRulesResponse(list=response)


def _result(rules: RuleSet) -> ManageRulesResponse.RulesResult:
    return ManageRulesResponse.RulesResult(rules=from_rule_set(rules))
