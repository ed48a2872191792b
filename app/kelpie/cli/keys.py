"""``kelpie keys``: users and their API keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import confirm, json_option, url_option
from kelpie.cli.output import ago, cell, console, print_json, safe, table
from kelpie.client import Client
from kelpie.job import iso

SCOPES = ("submit", "read", "work", "admin")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(ctx: click.Context, param: click.Parameter, given: str | None) -> int | None:
    if given is None:
        return None
    parsed = re.fullmatch(r"(\d{1,9})([smhd])", given)
    if parsed is None:
        raise click.BadParameter(f"{given!r} is no duration like 90m, 12h or 30d", ctx=ctx, param=param)
    return int(parsed[1]) * _UNITS_S[parsed[2]]


def _binding(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what a key of another user is bound to."""
    for name in ("--project", "--organization"):
        command = click.option(name, default="default", show_default=True, help="What the key is bound to.")(
            command
        )
    return command


def _reach(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how far a key reaches."""
    for option in (
        click.option(
            "--expires",
            "expires_in_s",
            callback=_seconds,
            metavar="DURATION",
            help="How long the key lives: 90m, 12h, 30d; default: for ever.",
        ),
        click.option("--name", help="What to call the key in lists."),
        click.option(
            "--scope",
            "scopes",
            multiple=True,
            type=click.Choice(SCOPES),
            help="What the key may do; repeat it for more. Default: all that its user may.",
        ),
    ):
        command = option(command)
    return command


@click.group(
    "keys",
    epilog=f"""\b
Examples:
  kelpie keys create alice                  (a new user and his first key; needs the admin's key)
  kelpie keys add USER_ID --scope work      (another key for a user there is; needs the admin's key)
  kelpie keys new --scope work --name nodes --expires 30d     (a narrower key of your own)
  kelpie keys list
  kelpie keys revoke KEY_ID
  kelpie keys users
  kelpie keys me

\b
Scopes: submit (jobs and all that is yours), read (look at them, change nothing), work (ask for work and
report on it, nothing else), admin (what only the admin may do; for the admin's own keys). A key without
scopes may do all that its user may.

{exit_codes.HELP}""",
)
def command() -> None:
    """Make, list and revoke API keys, and see whose key this is."""


@command.command("create")
@click.argument("username")
@_binding
@_reach
@json_option
@url_option
def create(
    *, username: str, organization: str, project: str, as_json: bool, url: str | None, **reach: Any
) -> None:
    """Make a user and his first key. The key is shown this once."""
    with Client(url) as client:
        user = client.create_user(username)
        key = client.create_key(user.id, organization, project, **_given(reach))
    _show(user.id, key, username=user.username, as_json=as_json)


@command.command("add")
@click.argument("user_id")
@_binding
@_reach
@json_option
@url_option
def add(
    *, user_id: str, organization: str, project: str, as_json: bool, url: str | None, **reach: Any
) -> None:
    """Make another key for a user. The key is shown this once."""
    with Client(url) as client:
        key = client.create_key(user_id, organization, project, **_given(reach))
    _show(user_id, key, username=None, as_json=as_json)


@command.command("new")
@_reach
@json_option
@url_option
def new(*, as_json: bool, url: str | None, **reach: Any) -> None:
    """Make another key of your own, full or narrower. The key is shown this once."""
    with Client(url) as client:
        key, made = client.create_own_key(**_given(reach))
    if as_json:
        print_json({**made.wire, "key": key})
    else:
        click.echo(f"key {safe(made.id)}", err=True)
        click.echo(safe(key))


@command.command("list")
@click.option("--user", "user_id", metavar="USER_ID", help="Another user's keys; needs the admin's key.")
@json_option
@url_option
def listing(*, user_id: str | None, as_json: bool, url: str | None) -> None:
    """List your keys, or those of a user. No key is ever shown again."""
    with Client(url) as client:
        found = client.keys(user_id)
    if as_json:
        print_json([dict(key.wire) for key in found])
        return
    shown = table("id", "begins", "name", "scopes", "created", "last used", "expires")
    for key in found:
        shown.add_row(
            cell(key.id),
            cell(key.prefix),
            cell(key.name),
            cell("all" if key.scopes is None else " ".join(key.scopes)),
            cell(ago(key.created)),
            cell(ago(key.last_used)),
            cell(iso(key.expires)),
        )
    console().print(shown)


@command.command("revoke")
@click.argument("key_id")
@click.option("--user", "user_id", metavar="USER_ID", help="Whose key it is; needs the admin's key.")
@url_option
def revoke(*, key_id: str, user_id: str | None, url: str | None) -> None:
    """End a key at once, everywhere."""
    with Client(url) as client:
        client.revoke_key(key_id, user_id)


@command.command("users")
@json_option
@url_option
def users(*, as_json: bool, url: str | None) -> None:
    """List all users; needs the admin's key."""
    with Client(url) as client:
        found = client.users()
    if as_json:
        print_json([dict(user.wire) for user in found])
        return
    shown = table("id", "username", "created")
    for user in found:
        shown.add_row(cell(user.id), cell(user.username), cell(user.wire.get("created")))
    console().print(shown)


@command.command("delete-user")
@click.argument("user_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@url_option
def delete_user(*, user_id: str, yes: bool, url: str | None) -> None:
    """Delete a user and his keys; his jobs stay. Needs the admin's key."""
    if not yes:
        confirm(f"Delete the user {safe(user_id)} and all his keys?")
    with Client(url) as client:
        client.delete_user(user_id)


@command.command("me")
@json_option
@url_option
def me(*, as_json: bool, url: str | None) -> None:
    """Say whose key KELPIE_API_KEY is."""
    with Client(url) as client:
        user = client.me()
    if as_json:
        print_json(user.wire)
    else:
        click.echo(f"{safe(user.username)} {safe(user.id)}")


def _given(reach: dict[str, Any]) -> dict[str, Any]:
    """The options of :func:`_reach` as the client takes them: no scope named means a full key."""
    return reach | {"scopes": reach["scopes"] or None}


def _show(user_id: str, key: str, *, username: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"user_id": user_id, "username": username, "key": key})
    else:
        click.echo(f"user {safe(user_id)}", err=True)
        click.echo(safe(key))
