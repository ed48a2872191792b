"""``kelpie scaling``: how many nodes container groups may have, and what was decided."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import ago, cell, console, print_json, safe, table
from kelpie.client import Client
from kelpie.scaling import MAX_IDLE_THRESHOLD_S, MAX_REPLICAS, MAX_SLOTS, Action, ScalingRule

_STYLES = {
    Action.SCALE_OUT: "green",
    Action.START: "green",
    Action.SCALE_IN: "yellow",
    Action.STOP: "yellow",
    Action.FAILED: "red",
}


@click.group(
    "scaling",
    epilog=f"""\b
Examples:
  kelpie scaling set GROUP_ID --min 0 --max 20 --idle 300
  kelpie scaling list
  kelpie scaling decisions GROUP_ID    (what was decided, and why)
  kelpie scaling preview GROUP_ID      (what would be decided now)
  kelpie scaling delete GROUP_ID

\b
The local provider's groups are registered by the admin:
  kelpie scaling register $(uuidgen) sims --organization default --project default

{exit_codes.HELP}""",
)
def command() -> None:
    """Scale container groups with the length of their queues."""


@command.command("list")
@json_option
@url_option
def list_rules(*, as_json: bool, url: str | None) -> None:
    """List the scaling rules."""
    with Client(url) as client:
        rules = client.scaling_rules()
    if as_json:
        print_json([rule.to_wire() for rule in rules])
    elif rules:
        _show(rules)
    else:
        click.echo("No scaling rules.")


@command.command("set")
@click.argument("group_id")
@click.option("--min", "low", type=click.IntRange(0, MAX_REPLICAS), help="Replicas at least; 0 at first.")
@click.option("--max", "high", type=click.IntRange(0, MAX_REPLICAS), help="Replicas at most; 1 at first.")
@click.option(
    "--idle",
    "idle_s",
    type=click.IntRange(0, MAX_IDLE_THRESHOLD_S),
    help="How long a finished job still counts, in seconds; 0 at first.",
)
@json_option
@url_option
def set_rule(
    *, group_id: str, low: int | None, high: int | None, idle_s: int | None, as_json: bool, url: str | None
) -> None:
    """Make the scaling rule of a container group, or change what is given of it."""
    with Client(url) as client:
        rule = client.set_scaling_rule(group_id, min_replicas=low, max_replicas=high, idle_threshold_s=idle_s)
    if as_json:
        print_json(rule.to_wire())
    else:
        _show([rule])


@command.command("delete")
@click.argument("group_id")
@url_option
def delete_rule(*, group_id: str, url: str | None) -> None:
    """Delete the scaling rule of a container group. The group keeps the replicas that it has."""
    with Client(url) as client:
        client.delete_scaling_rule(group_id)


@command.command("decisions")
@click.argument("group_id")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@json_option
@url_option
def decisions(*, group_id: str, limit: int, as_json: bool, url: str | None) -> None:
    """Show what was decided about a container group, the newest first."""
    with Client(url) as client:
        kept = client.scaling_decisions(group_id, limit=limit)
    if as_json:
        print_json([one.to_wire() for one in kept])
        return
    if not kept:
        click.echo("Nothing was decided yet.")
        return
    shown = table("age", "times", "action", "replicas", "wanted", "reason")
    for one in kept:
        made = one.decision
        shown.add_row(
            cell(ago(one.last)),
            cell(one.count),
            cell(made.action, _STYLES.get(made.action, "")),
            cell(made.replicas),
            cell(made.wanted),
            cell(made.reason),
        )
    console().print(shown)


@command.command("preview")
@click.argument("group_id")
@json_option
@url_option
def preview(*, group_id: str, as_json: bool, url: str | None) -> None:
    """Show what would be decided now. Nothing is changed."""
    with Client(url) as client:
        made = client.scaling_preview(group_id)
    if as_json:
        print_json(made.to_wire())
    else:
        click.echo(f"{made.action}: {made.replicas} replicas, {made.wanted} wanted: {safe(made.reason)}")


@command.command("groups")
@json_option
@url_option
def groups(*, as_json: bool, url: str | None) -> None:
    """List the container groups of the local provider."""
    with Client(url) as client:
        found = client.container_groups()
    if as_json:
        print_json([one.to_wire() for one in found])
        return
    if not found:
        click.echo("No container groups.")
        return
    shown = table("id", "name", "organization", "project", "state", "replicas", "current")
    for one in found:
        group = one.group
        values = (group.id, group.name, group.organization, group.project, group.state)
        shown.add_row(*map(cell, values), cell(group.replicas), cell(group.current))
    console().print(shown)


@command.command("register")
@click.argument("group_id")
@click.argument("name")
@click.option("--organization", default="default", show_default=True, help="Whose it is.")
@click.option("--project", default="default", show_default=True, help="Of that organization.")
@click.option(
    "--slots",
    type=click.IntRange(1, MAX_SLOTS),
    default=1,
    show_default=True,
    help="Jobs that one replica runs at once.",
)
@json_option
@url_option
def register(
    *, group_id: str, name: str, organization: str, project: str, slots: int, as_json: bool, url: str | None
) -> None:
    """Register a container group of the local provider, or rename it. Needs the admin's key."""
    with Client(url) as client:
        made = client.put_container_group(
            group_id, name=name, organization=organization, project=project, slots=slots
        )
    if as_json:
        print_json(made.to_wire())
    else:
        click.echo(f"{safe(made.group.id)} {safe(made.group.name)}")


def _show(rules: Sequence[ScalingRule]) -> None:
    shown = table("id", "group", "min", "max", "idle s", "changed")
    for rule in rules:
        shown.add_row(
            cell(rule.container_group_id),
            cell(rule.container_group_name),
            cell(rule.min_replicas),
            cell(rule.max_replicas),
            cell(rule.idle_threshold_seconds),
            cell(ago(rule.updated)),
        )
    console().print(shown)
