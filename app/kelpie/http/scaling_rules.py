"""``/scaling-rules``: how many replicas container groups may have, and what was decided by that."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, g

from kelpie.errors import ConflictError, InvalidInputError
from kelpie.http.auth import admin_only, authenticate
from kelpie.http.context import own_container_group, principal, scope, services
from kelpie.http.openapi import SCALING, replies, spec
from kelpie.http.replies import ErrorReply
from kelpie.http.scaling_models import DecisionsQuery, ScalingRuleBody, ScalingRulePatch
from kelpie.http.scaling_replies import (
    DecisionListReply,
    DecisionReply,
    ScalingRuleListReply,
    ScalingRuleReply,
)
from kelpie.providers.assess import assess
from kelpie.scaling import ScalingRule

Answer = Any  # whatever Flask makes a response of

scaling_rules = Blueprint("scaling_rules", __name__, url_prefix="/scaling-rules")
scaling_rules.before_request(authenticate)


@scaling_rules.post("")
@spec.validate(
    resp=replies(HTTP_201=ScalingRuleReply, HTTP_400=ErrorReply, HTTP_409=ErrorReply),
    tags=[SCALING],
    operation_id="createScalingRule",
)
def create(json: ScalingRuleBody) -> Answer:
    """Make the scaling rule of a container group. The caller's jobs of that queue count."""
    caller = principal()
    group = own_container_group(json.container_group_id)
    if group is None:
        problem = "the provider knows no such container group in your organization and project"
        raise InvalidInputError(f"container_group_id: {problem}.", errors=(("container_group_id", problem),))
    rule = services().store.rules.create(
        caller.user_id,
        group,
        min_replicas=json.min_replicas,
        max_replicas=json.max_replicas,
        idle_threshold_seconds=json.idle_threshold_seconds,
    )
    g.target = rule.container_group_id
    return rule.to_wire(), 201


@scaling_rules.get("")
@spec.validate(resp=replies(HTTP_200=ScalingRuleListReply), tags=[SCALING], operation_id="listScalingRules")
def list_all() -> Answer:
    """The caller's scaling rules, the oldest first; the admin sees all users'."""
    rules = services().store.rules.list(scope())
    return {"_count": len(rules), "rules": [rule.to_wire() for rule in rules]}


@scaling_rules.get("/<rule_id>")
@spec.validate(
    resp=replies(HTTP_200=ScalingRuleReply, HTTP_404=ErrorReply),
    tags=[SCALING],
    operation_id="getScalingRule",
)
def get(rule_id: str) -> Answer:
    """A scaling rule. Its id is that of its container group."""
    return _find(rule_id).to_wire()


@scaling_rules.patch("/<rule_id>")
@spec.validate(
    resp=replies(HTTP_200=ScalingRuleReply, HTTP_400=ErrorReply, HTTP_404=ErrorReply),
    tags=[SCALING],
    operation_id="updateScalingRule",
)
def update(rule_id: str, json: ScalingRulePatch) -> Answer:
    """Change some numbers of a scaling rule."""
    rule = services().store.rules.update(
        rule_id.lower(),
        user_id=scope(),
        min_replicas=json.min_replicas,
        max_replicas=json.max_replicas,
        idle_threshold_seconds=json.idle_threshold_seconds,
    )
    return rule.to_wire()


@scaling_rules.delete("/<rule_id>")
@spec.validate(
    resp=replies(HTTP_204=None, HTTP_404=ErrorReply), tags=[SCALING], operation_id="deleteScalingRule"
)
def delete(rule_id: str) -> Answer:
    """Delete a scaling rule. Its container group stays as it is."""
    services().store.rules.delete(rule_id.lower(), user_id=scope())
    return "", 204


@scaling_rules.delete("")
@admin_only
@spec.validate(resp=replies(HTTP_204=None), tags=[SCALING], operation_id="deleteScalingRules")
def delete_all() -> Answer:
    """Delete all scaling rules of all users (admin)."""
    services().store.rules.delete_all()
    return "", 204


@scaling_rules.get("/<rule_id>/decision")
@spec.validate(
    resp=replies(HTTP_200=DecisionReply, HTTP_404=ErrorReply, HTTP_409=ErrorReply),
    tags=[SCALING],
    operation_id="previewScaling",
)
def preview(rule_id: str) -> Answer:
    """What the rule asks for at this moment. Nothing is changed, nothing is kept."""
    rule, settings = _find(rule_id), services().settings
    now = time.time_ns() // 1_000_000
    found = assess(
        services().store, services().provider, rule, now=now, cooldown_s=settings.autoscale_cooldown_s
    )
    if found is None:
        raise ConflictError(
            f"The container group {rule.container_group_id} is gone; its rule will be deleted."
        )
    return found.decision.to_wire()


@scaling_rules.get("/<rule_id>/decisions")
@spec.validate(
    resp=replies(HTTP_200=DecisionListReply, HTTP_400=ErrorReply, HTTP_404=ErrorReply),
    tags=[SCALING],
    operation_id="listScalingDecisions",
)
def decisions(rule_id: str, query: DecisionsQuery) -> Answer:
    """What was decided by the rule, the newest first; the last 200 are kept."""
    rule = _find(rule_id)
    kept = services().store.rules.decisions(rule.container_group_id, limit=query.limit)
    return {"_count": len(kept), "decisions": [one.to_wire() for one in kept]}


def _find(rule_id: str) -> ScalingRule:
    return services().store.rules.get(rule_id.lower(), user_id=scope())
