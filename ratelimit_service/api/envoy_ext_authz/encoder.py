"""Decisions as messages of Envoy's authorization protocol."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.envoy.config.core.v3.base_pb2 import HeaderValueOption
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimit_service.api.denial import Denial, Render, denial
from ratelimit_service.api.headers import Header, Labels, LimitHeaders, ShownLimit, retry_after_seconds
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.reason import Reason
from ratelimit_service.errors import Code

MAX_TEMPLATES: Final = 10_000

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_CHALLENGE: Final = ("www-authenticate", "ApiKey")
"""RFC 9110 wants a challenge with every 401."""

_NO_TEMPLATE: Final = ("", "", CheckResponse())


class CheckResponseEncoder:
    """Decisions as messages.

    The part that all allowed requests of a key share is made once, for each reason: at most MAX_TEMPLATES of them, kept
    without the policy, of which a newer one may exist. For one thread.
    """

    def __init__(self, headers: LimitHeaders, key_header: str) -> None:
        """KEY_HEADER is the header that the upstream must not see."""
        self._headers = headers
        self._key_header = key_header
        self._labels = Labels()
        self._templates: dict[tuple[str, Reason], tuple[str, str, CheckResponse]] = {}

    def from_decision(self, decision: Decision, render: Render) -> CheckResponse:
        """The response for a decision; RENDER puts a denial into words."""
        policy = decision.policy
        limits, binding = self._shown(decision)
        if decision.allowed and policy is not None:
            response = CheckResponse()
            response.CopyFrom(self.from_identity(policy, decision.reason))
            _add(response.ok_response.response_headers_to_add, self._headers.render(limits, binding))
            return response
        retry_after_us = decision.retry_after_us
        limit = decision.rules[decision.binding].limit.name if decision.binding >= 0 else ""
        violated = tuple(one.label.name for one in limits if one.denies)
        wait = None if retry_after_us is None else retry_after_seconds(binding, retry_after_us)
        response = self.from_denial(denial(decision.reason, limit, violated, wait), render)
        _add(response.denied_response.headers, self._headers.render_denial(limits, binding, retry_after_us))
        _describe(response.dynamic_metadata, policy)
        if limit:
            response.dynamic_metadata.fields["limit"].string_value = limit
        return response

    def from_denial(self, denial: Denial, render: Render) -> CheckResponse:
        """The response for a denial by no limit, put into words by RENDER."""
        response = CheckResponse()
        response.status.code = denial.code
        response.status.message = denial.detail
        denied = response.denied_response
        denied.status.code = int(denial.status)  # type: ignore[assignment]  # the numbers are the same
        header, denied.body = render(denial)
        _add(denied.headers, (header,))
        if denial.code is Code.UNAUTHENTICATED:
            _add(denied.headers, (_CHALLENGE,))
        response.dynamic_metadata.fields["allowed"].bool_value = False
        response.dynamic_metadata.fields["reason"].string_value = denial.reason
        return response

    def from_identity(self, policy: Policy, reason: Reason) -> CheckResponse:
        """The response that allows a request and names its key, without its limits. Do not change it."""
        key = (policy.key_id, reason)
        subject, plan, message = self._templates.get(key, _NO_TEMPLATE)
        if subject == policy.subject and plan == policy.plan:
            return message
        message = self._allowed(policy, reason)
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        self._templates[key] = (policy.subject, policy.plan, message)
        return message

    def _allowed(self, policy: Policy, reason: Reason) -> CheckResponse:
        response = CheckResponse()
        response.status.code = Code.OK
        identity = (
            ("x-ratelimit-key-id", policy.key_id),
            ("x-ratelimit-subject", policy.subject),
            ("x-ratelimit-plan", policy.plan),
        )
        _add(response.ok_response.headers, identity)
        response.ok_response.headers_to_remove.append(self._key_header)
        response.dynamic_metadata.fields["allowed"].bool_value = True
        response.dynamic_metadata.fields["reason"].string_value = reason.name
        _describe(response.dynamic_metadata, policy)
        return response

    def _shown(self, decision: Decision) -> tuple[list[ShownLimit], ShownLimit | None]:
        """Every enforced limit that was evaluated, and the one that binds."""
        shown: list[ShownLimit] = []
        binding: ShownLimit | None = None
        for index, (rule, result) in enumerate(zip(decision.rules, decision.results, strict=True)):
            if rule.enforced:
                one = ShownLimit.of(self._labels.of(rule.limit.name, rule.limit.algorithm), result)
                shown.append(one)
                if index == decision.binding:
                    binding = one
        return shown, binding


def _describe(metadata: Struct, policy: Policy | None) -> None:
    if policy is not None:
        metadata.fields["key_id"].string_value = policy.key_id
        metadata.fields["subject"].string_value = policy.subject
        metadata.fields["plan"].string_value = policy.plan


def _add(options: RepeatedCompositeFieldContainer[HeaderValueOption], headers: Iterable[Header]) -> None:
    for name, value in headers:
        option = options.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value
