"""ManageRules: actions on the descriptor rules of a domain."""

from typing import Final

from ratelimit_service._gen.ratelimit.v1.key_admin_service_pb2 import ManageRulesRequest, ManageRulesResponse
from ratelimit_service.api.key_admin.fields import missing_action, require_message, under
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.api.key_admin.roles import check_role
from ratelimit_service.api.key_admin.rules_messages import heading_to_proto, rule_set_to_proto, rules_from_proto
from ratelimit_service.aside import aside
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.rules import RuleSet, RulesService
from ratelimit_service.management.tokens import Caller
from ratelimit_service.usage.previews import ChangePreviews

_MAX_DOMAINS: Final = 10
"""Domains that are read at a time: their rules are read too."""


class ManageRules:
    """Replaces, reads or deletes the descriptor rules of a domain."""

    def __init__(self, rules: RulesService, previews: ChangePreviews) -> None:
        self._rules = rules
        self._previews = previews

    async def __call__(self, request: ManageRulesRequest, caller: Caller) -> ManageRulesResponse:
        """Perform the request's action, if the caller's role allows it. Raises ServiceError."""
        if request.validate_only:
            request.validate_only = False
            return await ManageRules(self._rules.rehearsal(), self._previews)(request, caller)
        action = request.WhichOneof("action")
        check_role(caller, action)
        if action is None:
            raise missing_action("replace", "get", "list", "delete")
        async with self._previews.added():
            return await self._perform(action, request, caller)

    async def _perform(self, action: str, request: ManageRulesRequest, caller: Caller) -> ManageRulesResponse:
        with under(action):
            match action:
                case "replace":
                    return ManageRulesResponse(replace=await _result(await self._replace(request.replace, caller)))
                case "get":
                    rules = await self._rules.get(request.get.domain, version=request.get.version)
                    return ManageRulesResponse(get=await _result(rules))
                case "list":
                    return await self._list(request.list)
                case _:
                    deleted = await self._rules.delete(
                        caller.name,
                        request.delete.domain,
                        etag=request.delete.etag,
                        confirmation=request.delete.confirmation,
                    )
                    return ManageRulesResponse(delete=await _result(deleted))

    async def _replace(self, request: ManageRulesRequest.ReplaceRules, caller: Caller) -> RuleSet:
        require_message("rules", present=request.HasField("rules"))
        message = request.rules
        with under("rules"):
            rules = await aside(rules_from_proto, message)
            if request.validate_only:
                return await self._rules.check(rules, description=message.description, etag=message.etag)
            return await self._rules.replace(
                caller.name,
                rules,
                description=message.description,
                etag=message.etag,
                confirmation=request.confirmation,
            )

    async def _list(self, request: ManageRulesRequest.ListRules) -> ManageRulesResponse:
        paging = Paging(request.page_size, request.page_token)
        domains, token = await read_page(paging, self._rules.list, heading_to_proto, max_read=_MAX_DOMAINS)
        return ManageRulesResponse(list=ManageRulesResponse.RulesPage(domains=domains, next_page_token=token))


async def _result(rules: RuleSet) -> ManageRulesResponse.RulesResult:
    return ManageRulesResponse.RulesResult(rules=await aside(rule_set_to_proto, rules))
