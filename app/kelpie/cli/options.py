"""Options and argument forms that several subcommands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API gives it.")

url_option = click.option(
    "--url", metavar="URL", help="The API; default KELPIE_API_URL, or http://127.0.0.1:8080."
)


def pairs(name: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    """A click callback that turns repeated ``NAME=VALUE`` into a dict; ``name`` is what to call a pair."""

    def parse(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
        parsed = {}
        for text in given:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"{text!r} is not {name}", ctx=ctx, param=param)
            parsed[key] = value
        return parsed

    return parse
