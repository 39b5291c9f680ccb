"""Decisions as messages of Envoy's authorization protocol."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.envoy.config.core.v3.base_pb2 import HeaderValueOption
from ratelimit_service._gen.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimit_service.api.denial import Denial, RenderDenial, denial_for
from ratelimit_service.api.headers import Header, LimitHeaders, LimitSpecs, LimitState, retry_after_seconds
from ratelimit_service.decision.limit import Concurrency
from ratelimit_service.decision.outcome import Decision
from ratelimit_service.decision.policy import Policy
from ratelimit_service.decision.reason import Reason
from ratelimit_service.errors import Code

MAX_TEMPLATES: Final = 10_000

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_CHALLENGE: Final = ("www-authenticate", "ApiKey")
"""RFC 9110 requires a challenge with every 401."""

_NO_TEMPLATE: Final = ("", "", CheckResponse())


class CheckResponseEncoder:
    """Encodes decisions.

    What all allowed requests of a key have in common is built once for each reason: at most MAX_TEMPLATES of them, kept
    without the policy, of which a newer one may exist. For one thread.
    """

    def __init__(self, headers: LimitHeaders, key_header: str) -> None:
        """KEY_HEADER is the header that the upstream must not see."""
        self._headers = headers
        self._key_header = key_header
        self._specs = LimitSpecs()
        self._templates: dict[tuple[str, Reason], tuple[str, str, CheckResponse]] = {}

    def encode(self, decision: Decision, render: RenderDenial) -> CheckResponse:
        """The response for a decision; RENDER formats a denial."""
        policy = decision.policy
        limits, binding = self._states(decision)
        if decision.allowed and policy is not None:
            response = CheckResponse()
            response.CopyFrom(self.encode_identity(policy, decision.reason))
            _add_headers(response.ok_response.response_headers_to_add, self._headers.render(limits, binding))
            return response
        retry_after_us = decision.retry_after_us
        limit = decision.rules[decision.binding].limit.name if decision.binding >= 0 else ""
        violated = tuple(state.spec.name for state in limits if state.denies)
        wait = None if retry_after_us is None else retry_after_seconds(binding, retry_after_us)
        response = self.encode_denial(denial_for(decision.reason, limit, violated, wait), render)
        _add_headers(response.denied_response.headers, self._headers.render_denial(limits, binding, retry_after_us))
        _set_identity(response.dynamic_metadata, policy)
        if limit:
            response.dynamic_metadata.fields["limit"].string_value = limit
        return response

    def encode_denial(self, denial: Denial, render: RenderDenial) -> CheckResponse:
        """The response for a denial, formatted by RENDER, without limits."""
        response = CheckResponse()
        response.status.code = denial.code
        response.status.message = denial.detail
        denied = response.denied_response
        denied.status.code = int(denial.status)  # type: ignore[assignment]  # the numbers are the same
        header, denied.body = render(denial)
        _add_headers(denied.headers, (header,))
        if denial.code is Code.UNAUTHENTICATED:
            _add_headers(denied.headers, (_CHALLENGE,))
        response.dynamic_metadata.fields["allowed"].bool_value = False
        response.dynamic_metadata.fields["reason"].string_value = denial.reason
        return response

    def encode_identity(self, policy: Policy, reason: Reason) -> CheckResponse:
        """The response that allows a request and identifies its key, without limits. Do not modify it."""
        key = (policy.key_id, reason)
        subject, plan, message = self._templates.get(key, _NO_TEMPLATE)
        if subject == policy.subject and plan == policy.plan:
            return message
        message = self._encode_identity(policy, reason)
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        self._templates[key] = (policy.subject, policy.plan, message)
        return message

    def _encode_identity(self, policy: Policy, reason: Reason) -> CheckResponse:
        response = CheckResponse()
        response.status.code = Code.OK
        identity = (
            ("x-ratelimit-key-id", policy.key_id),
            ("x-ratelimit-subject", policy.subject),
            ("x-ratelimit-plan", policy.plan),
        )
        _add_headers(response.ok_response.headers, identity)
        response.ok_response.headers_to_remove.append(self._key_header)
        response.dynamic_metadata.fields["allowed"].bool_value = True
        response.dynamic_metadata.fields["reason"].string_value = reason.name
        _set_identity(response.dynamic_metadata, policy)
        return response

    def _states(self, decision: Decision) -> tuple[list[LimitState], LimitState | None]:
        """The states of all enforced limits that were evaluated, and of the binding one."""
        states: list[LimitState] = []
        binding: LimitState | None = None
        for index, (rule, result) in enumerate(zip(decision.rules, decision.results, strict=True)):
            if rule.enforced and not isinstance(rule.limit.algorithm, Concurrency):
                state = LimitState.of(self._specs.get(rule.limit.name, rule.limit.algorithm), result)
                states.append(state)
                if index == decision.binding:
                    binding = state
        return states, binding


def _set_identity(metadata: Struct, policy: Policy | None) -> None:
    if policy is not None:
        metadata.fields["key_id"].string_value = policy.key_id
        metadata.fields["subject"].string_value = policy.subject
        metadata.fields["plan"].string_value = policy.plan


def _add_headers(options: RepeatedCompositeFieldContainer[HeaderValueOption], headers: Iterable[Header]) -> None:
    for name, value in headers:
        option = options.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value
