"""``kelpie keys``: users and their API keys."""

from __future__ import annotations

import click

from kelpie.cli import exit_codes
from kelpie.cli.options import json_option, url_option
from kelpie.cli.output import print_json, safe
from kelpie.client import Client

_binding = (
    click.option("--organization", default="default", show_default=True, help="What the key is bound to."),
    click.option("--project", default="default", show_default=True, help="What the key is bound to."),
)


@click.group(
    "keys",
    epilog=f"""\b
Examples:
  kelpie keys create alice             (a new user and his first key; needs the admin's key)
  kelpie keys add USER_ID              (another key for a user there is)
  kelpie keys me

{exit_codes.HELP}""",
)
def command() -> None:
    """Make API keys, and see whose key this is."""


@command.command("create")
@click.argument("username")
@_binding[0]
@_binding[1]
@json_option
@url_option
def create(*, username: str, organization: str, project: str, as_json: bool, url: str | None) -> None:
    """Make a user and his first key. The key is shown this once."""
    with Client(url) as client:
        user = client.create_user(username)
        key = client.create_key(user.id, organization, project)
    _show(user.id, key, username=user.username, as_json=as_json)


@command.command("add")
@click.argument("user_id")
@_binding[0]
@_binding[1]
@json_option
@url_option
def add(*, user_id: str, organization: str, project: str, as_json: bool, url: str | None) -> None:
    """Make another key for a user. The key is shown this once."""
    with Client(url) as client:
        key = client.create_key(user_id, organization, project)
    _show(user_id, key, username=None, as_json=as_json)


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


def _show(user_id: str, key: str, *, username: str | None, as_json: bool) -> None:
    if as_json:
        print_json({"user_id": user_id, "username": username, "key": key})
    else:
        click.echo(f"user {safe(user_id)}", err=True)
        click.echo(safe(key))
