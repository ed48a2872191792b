"""The queues and their container groups: how deep, how many nodes, and the rule that scales them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flask import Response, g
from pydantic import ValidationError
from werkzeug.wrappers import Response as BaseResponse

from kelpie.errors import ConflictError, InvalidInputError, NotFoundError
from kelpie.http.audit import note
from kelpie.http.context import own_container_group, principal, services
from kelpie.http.errors import invalid
from kelpie.http.scaling_models import ScalingRuleBody
from kelpie.job import JobStatus
from kelpie.providers.assess import assess
from kelpie.scaling import ContainerGroup, Decision, ScalingRule
from kelpie.store import Filter, Queue
from kelpie.store.clock import wall_ms
from kelpie.store.metrics import QueueFigures
from kelpie_web.ui import back, form, owner, page, ui

MAX_ROWS = 200
SHOWN_DECISIONS = 20
ETA_WINDOW_S = 3600
ETA_ENOUGH = 5000
RULE_FIELDS = ("min_replicas", "max_replicas", "idle_threshold_seconds")


@dataclass(frozen=True, slots=True)
class Eta:
    """When a queue will be empty if it goes on as in the last hour."""

    ended: int  # jobs within the window; ETA_ENOUGH means: that many or more
    ms: int | None  # from now; None: nobody can tell


@ui.get("/groups")
def groups() -> Response:
    """All queues."""
    store = services().store
    figures = store.metrics.queues(owner(), uploads=False)
    counted: Counter[int] = Counter(
        node.queue.number for node in store.nodes(owner()) if node.state != "silent"
    )
    rules = {(rule.user_id, rule.container_group_id): rule for rule in store.rules.list(owner())}
    ordered = sorted(figures, key=lambda one: (-one.live, one.queue.container_group_id))
    return page(
        "groups.html",
        figures=ordered[:MAX_ROWS],
        hidden=max(0, len(figures) - MAX_ROWS),
        counted=counted,
        rules=rules,
    )


@ui.get("/groups/<int:number>")
def group(number: int) -> Response:
    """One queue, its nodes, its rule and what was decided by it."""
    return _group(_queue(number))


@ui.post("/groups/<int:number>/rule")
def rule(number: int) -> BaseResponse:
    """Try a rule out, keep it, or delete it."""
    queue, fields = _queue(number), form()
    if fields.get("do") == "delete":
        services().store.rules.delete(_found_rule(queue).container_group_id, user_id=owner())
        note("delete a scaling rule", queue.container_group_id)
        return back("ui.group", "The rule is deleted; the container group stays as it is.", number=number)
    try:
        asked = _asked(queue, fields)
    except InvalidInputError as error:
        response = _group(queue, fields=fields, problem=str(error))
        response.status_code = 400
        return response
    existing = _rule(queue)
    if fields.get("do") != "keep":
        return _group(queue, fields=fields, decision=_dry_run(queue, existing, asked))
    numbers = {name: getattr(asked, name) for name in RULE_FIELDS}
    if existing is None:
        services().store.rules.create(principal().user_id, _container_group(queue), **numbers)
    else:
        services().store.rules.update(existing.container_group_id, user_id=owner(), **numbers)
    words = ", ".join(f"{name}={value}" for name, value in numbers.items())
    note("set a scaling rule", f"{queue.container_group_id}: {words}")
    return back(
        "ui.group", "The rule is kept; the autoscaler follows it from its next look on.", number=number
    )


@ui.post("/groups/<int:number>/clear")
def clear(number: int) -> BaseResponse:
    """Remove what is pending and cancel what runs, after the page that counts it."""
    queue = _queue(number)
    figures = _figures(queue)
    if form().get("confirmed") != "yes":
        return page("clear.html", queue=queue, figures=figures)
    count = services().store.clear_group(queue.user_id, queue.container_group_id)
    note("clear a queue", queue.container_group_id, count=max(1, count))
    return back("ui.group", f"{count:,} jobs were removed or canceled.", number=number)


def _group(
    queue: Queue,
    *,
    fields: Mapping[str, str] | None = None,
    problem: str | None = None,
    decision: Decision | None = None,
) -> Response:
    store = services().store
    figures, kept = _figures(queue), _rule(queue)
    if fields is None and kept is not None:
        fields = {name: str(getattr(kept, name)) for name in RULE_FIELDS}
    return page(
        "group.html",
        queue=queue,
        figures=figures,
        is_own=queue.user_id == principal().user_id,
        nodes=store.nodes(queue.user_id, queue.container_group_id),
        rule=kept,
        fields=fields or {"min_replicas": "0", "max_replicas": "1", "idle_threshold_seconds": "0"},
        problem=problem,
        decision=decision,
        decisions=store.rules.decisions(kept.container_group_id, limit=SHOWN_DECISIONS) if kept else [],
        eta=_eta(queue, figures),
        newest=store.search(queue.user_id, Filter(None, queue.container_group_id), size=5).jobs,
        statuses=list(JobStatus),
        session=g.session,
    )


def _queue(number: int) -> Queue:
    """A queue of the caller's. Raises NotFoundError."""
    found = services().store.queue(number)
    if found is None or owner() not in (None, found.user_id):
        raise NotFoundError("There is no such group.")
    return found


def _figures(queue: Queue) -> QueueFigures:
    for one in services().store.metrics.queues(queue.user_id, uploads=False):
        if one.queue.number == queue.number:
            return one
    raise NotFoundError("There is no such group.")


def _rule(queue: Queue) -> ScalingRule | None:
    """The rule that counts the jobs of this queue."""
    try:
        found = services().store.rules.get(queue.container_group_id.lower(), user_id=owner())
    except NotFoundError:
        return None
    return found if found.user_id == queue.user_id else None


def _found_rule(queue: Queue) -> ScalingRule:
    found = _rule(queue)
    if found is None:
        raise NotFoundError("This group has no scaling rule.")
    return found


def _asked(queue: Queue, fields: Mapping[str, str]) -> ScalingRuleBody:
    numbers: dict[str, object] = {"container_group_id": queue.container_group_id}
    for name in RULE_FIELDS:
        text = fields.get(name, "").strip()
        numbers[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    try:
        return ScalingRuleBody.model_validate(numbers)
    except ValidationError as error:
        raise invalid(error) from None


def _container_group(queue: Queue) -> ContainerGroup:
    if queue.user_id != principal().user_id:
        raise ConflictError(
            "A rule counts the jobs of the user who makes it: its owner has to make this one."
        )
    found = own_container_group(queue.container_group_id.lower())
    if found is None:
        raise ConflictError(
            f"The provider knows no container group {queue.container_group_id} in your organization and "
            "project."
        )
    return found


def _dry_run(queue: Queue, existing: ScalingRule | None, asked: ScalingRuleBody) -> Decision:
    """What the rule would ask for at this moment. Nothing is changed, nothing is kept."""
    parts, now = services(), wall_ms()
    numbers = {name: getattr(asked, name) for name in RULE_FIELDS}
    if existing is None:
        found = _container_group(queue)
        trial = ScalingRule(
            container_group_id=found.id,
            user_id=queue.user_id,
            organization=found.organization,
            project=found.project,
            container_group_name=found.name,
            created=now,
            updated=now,
            **numbers,
        )
    else:
        trial = replace(existing, **numbers)
    looked = assess(
        parts.store, parts.provider, trial, now=now, cooldown_s=parts.settings.autoscale_cooldown_s
    )
    if looked is None:
        raise ConflictError("The container group is gone.")
    return looked.decision


def _eta(queue: Queue, figures: QueueFigures) -> Eta:
    seen = services().store.demand(
        queue.user_id,
        queue.container_group_id,
        finished_within_s=ETA_WINDOW_S,
        enough=figures.waiting + figures.leased + ETA_ENOUGH,
    )
    if not seen.finished or not figures.live:
        return Eta(seen.finished, None)
    return Eta(seen.finished, round(1000 * ETA_WINDOW_S * figures.live / seen.finished))
