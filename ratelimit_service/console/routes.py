"""Every route of the console and the role that it needs. A viewer's forms change nothing but their own session."""

from collections.abc import Sequence
from typing import Final

from ratelimit_service.console.forms import MAX_DOCUMENT_BYTES
from ratelimit_service.console.guard import Route
from ratelimit_service.console.pages import (
    alerts,
    audit,
    find,
    key,
    key_actions,
    keys,
    new_override,
    overrides,
    overview,
    plan_edit,
    plans,
    rules,
    sign_in,
    subject,
)
from ratelimit_service.management.tokens import Role

_ANY: Final = None
_VIEWER: Final = Role.VIEWER
_ADMIN: Final = Role.ADMIN

ROUTES: Final[Sequence[Route]] = (
    Route("GET", "/sign-in", _ANY, sign_in.show),
    Route("POST", "/sign-in", _ANY, sign_in.sign_in, max_bytes=8_192),
    Route("POST", "/sign-out", _VIEWER, sign_in.sign_out),
    Route("POST", "/find", _VIEWER, find.find),
    Route("GET", "/", _VIEWER, overview.show),
    Route("GET", "/overview/live", _VIEWER, overview.stream),
    Route("GET", "/keys", _VIEWER, keys.show),
    Route("POST", "/keys/filter", _VIEWER, keys.filter_keys),
    Route("GET", "/keys/new", _ADMIN, keys.new),
    Route("POST", "/keys/new", _ADMIN, keys.create),
    Route("POST", "/keys/bulk", _ADMIN, keys.bulk),
    Route("GET", "/keys/{key_id}", _VIEWER, key.show),
    Route("GET", "/keys/{key_id}/live", _VIEWER, key.stream),
    Route("GET", "/keys/{key_id}/edit", _ADMIN, key_actions.edit),
    Route("POST", "/keys/{key_id}/edit", _ADMIN, key_actions.save),
    Route("GET", "/keys/{key_id}/rotate", _ADMIN, key_actions.ask_rotate),
    Route("POST", "/keys/{key_id}/rotate", _ADMIN, key_actions.rotate),
    Route("GET", "/keys/{key_id}/suspend", _ADMIN, key_actions.ask_suspend),
    Route("POST", "/keys/{key_id}/suspend", _ADMIN, key_actions.suspend),
    Route("POST", "/keys/{key_id}/resume", _ADMIN, key_actions.resume),
    Route("GET", "/keys/{key_id}/revoke", _ADMIN, key_actions.ask_revoke),
    Route("POST", "/keys/{key_id}/revoke", _ADMIN, key_actions.revoke),
    Route("GET", "/keys/{key_id}/override", _ADMIN, overrides.ask_for_key),
    Route("POST", "/keys/{key_id}/override", _ADMIN, overrides.set_for_key),
    Route("GET", "/keys/{key_id}/override/new", _ADMIN, new_override.ask_for_key),
    Route("POST", "/keys/{key_id}/override/new", _ADMIN, new_override.set_for_key),
    Route("POST", "/keys/{key_id}/override/end", _ADMIN, overrides.end_for_key),
    Route("GET", "/subject", _VIEWER, subject.show),
    Route("GET", "/subject/live", _VIEWER, subject.stream),
    Route("GET", "/subject/override", _ADMIN, overrides.ask_for_subject),
    Route("POST", "/subject/override", _ADMIN, overrides.set_for_subject),
    Route("GET", "/subject/override/new", _ADMIN, new_override.ask_for_subject),
    Route("POST", "/subject/override/new", _ADMIN, new_override.set_for_subject),
    Route("POST", "/subject/override/end", _ADMIN, overrides.end_for_subject),
    Route("GET", "/plans", _VIEWER, plans.show),
    Route("GET", "/plans/new", _ADMIN, plan_edit.new),
    Route("POST", "/plans/new", _ADMIN, plan_edit.change_new),
    Route("GET", "/plans/{name}", _VIEWER, plans.plan),
    Route("GET", "/plans/{name}/edit", _ADMIN, plan_edit.edit),
    Route("POST", "/plans/{name}/edit", _ADMIN, plan_edit.change),
    Route("GET", "/plans/{name}/delete", _ADMIN, plans.ask_delete),
    Route("POST", "/plans/{name}/delete", _ADMIN, plans.delete),
    Route("GET", "/rules", _VIEWER, rules.show),
    Route("GET", "/rules/domain", _VIEWER, rules.domain),
    Route("GET", "/rules/edit", _ADMIN, rules.edit),
    Route("POST", "/rules/edit", _ADMIN, rules.change, max_bytes=MAX_DOCUMENT_BYTES),
    Route("GET", "/rules/delete", _ADMIN, rules.ask_delete),
    Route("POST", "/rules/delete", _ADMIN, rules.delete),
    Route("GET", "/alerts", _VIEWER, alerts.show),
    Route("GET", "/alerts/live", _VIEWER, alerts.stream),
    Route("POST", "/alerts/test", _ADMIN, alerts.test),
    Route("GET", "/audit", _VIEWER, audit.show),
    Route("POST", "/audit/filter", _VIEWER, audit.filter_changes),
)
