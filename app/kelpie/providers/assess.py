"""What a scaling rule asks for now: its queue counted, its provider asked, nothing changed."""

from __future__ import annotations

from dataclasses import dataclass

from kelpie.providers.base import Provider
from kelpie.scaling import ContainerGroup, Decision, Demand, ScalingRule, decide
from kelpie.store import Store


@dataclass(frozen=True, slots=True)
class Assessment:
    """A container group as its provider has it, and what is to be done about it."""

    group: ContainerGroup
    decision: Decision


def assess(
    store: Store, provider: Provider, rule: ScalingRule, *, now: int, cooldown_s: float
) -> Assessment | None:
    """What ``rule`` asks for at ``now`` (ms); None when its container group is gone.

    Raises ProviderError and UnavailableError.
    """
    group = lookup(provider, rule)
    if group is None:
        return None
    demand = measure(store, rule, slots=group.slots)
    return Assessment(group, decide(rule, group, demand, now=now, cooldown_ms=round(cooldown_s * 1000)))


def lookup(provider: Provider, rule: ScalingRule) -> ContainerGroup | None:
    """The container group of a rule, or None when it is gone."""
    return provider.lookup(rule.container_group_id, organization=rule.organization, project=rule.project)


def measure(store: Store, rule: ScalingRule, *, slots: int) -> Demand:
    """The jobs of the rule's own user that count."""
    return store.demand(
        rule.user_id,
        rule.container_group_id,
        finished_within_s=rule.idle_threshold_seconds,
        enough=rule.max_replicas * slots,
    )
