"""How values look on pages: times, durations, states, icons."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from flask import Blueprint, url_for
from markupsafe import Markup

from kelpie.job import from_iso, iso
from kelpie.store.clock import wall_ms

STATIC = Path(__file__).parent / "static"

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

UNSEEN = (
    {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
)
"""What would not show, or would turn the text around it about, and the picture that stands for it."""

TONES = {
    "pending": "secondary",
    "running": "primary",
    "completed": "success",
    "failed": "danger",
    "canceled": "warning",
    "busy": "primary",
    "idle": "success",
    "silent": "secondary",
    "queued": "secondary",
    "delivered": "success",
    "refused": "danger",
    "dropped": "warning",
    "app_failed": "danger",
    "sync_failed": "danger",
    "interrupted": "warning",
    "released": "secondary",
    "superseded": "warning",
}
"""The colour of each state; it is always beside the word."""


def register(blueprint: Blueprint) -> None:
    """Make the templates of an application know these."""
    blueprint.add_app_template_filter(time, "time")
    blueprint.add_app_template_filter(ago, "ago")
    blueprint.add_app_template_filter(lasted, "lasted")
    blueprint.add_app_template_filter(about, "about")
    blueprint.add_app_template_filter(count, "count")
    blueprint.add_app_template_filter(figure, "figure")
    blueprint.add_app_template_filter(size, "size")
    blueprint.add_app_template_filter(short, "short")
    blueprint.add_app_template_filter(visible, "visible")
    blueprint.add_app_template_filter(badge, "badge")
    blueprint.add_app_template_global(icon, "icon")
    blueprint.add_app_template_global(asset, "asset")


def time(value: int | str | None) -> Markup:
    """A moment (ms, or as the API tells it): in UTC, which the page's script may make local."""
    told = iso(value) if isinstance(value, int) else value
    if told is None:
        return Markup('<span class="text-body-secondary">–</span>')
    shown = told[:19].replace("T", " ")
    return Markup('<time datetime="{}">{} UTC</time>').format(told, shown)


def ago(value: int | str | None) -> str:
    """How long ago a moment was, roughly."""
    ms = from_iso(value) if isinstance(value, str) else value
    if ms is None:
        return "never"
    seconds = (wall_ms() - ms) // 1000
    return "just now" if seconds < 2 else f"{lasted(1000 * seconds)} ago"


def lasted(ms: float | None) -> str:
    """A duration of so many ms, in its two largest units."""
    if ms is None:
        return "–"
    seconds = max(0, round(ms / 1000))
    for size, unit, smaller, under in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // smaller
            return f"{seconds // size} {unit}" + (f" {rest} {under}" if rest else "")
    return f"{seconds} s"


def about(ms: float) -> str:
    """An estimate of a duration: of more than a minute in whole ones."""
    return lasted(ms if ms < 60_000 else 60_000 * round(ms / 60_000))


def count(number: int) -> str:
    """A count with its thousands apart."""
    return f"{number:,}"


def figure(number: float) -> str:
    """A number of any kind: whole ones with their thousands apart, others with six digits."""
    return f"{number:,.0f}" if number == int(number) and abs(number) < 1e15 else f"{number:.6g}"


def size(number: float) -> str:
    """So many bytes, in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def short(name: str) -> str:
    """A name for a column: of a UUID its beginning."""
    return f"{name[:8]}…" if _UUID.fullmatch(name) else name


def visible(text: str) -> str:
    """Text of others with pictures in place of control characters: escape codes do nothing, and show."""
    return text.translate(UNSEEN)


def badge(state: Any) -> Markup:
    """A state as a coloured word."""
    word = str(getattr(state, "value", state))
    return Markup('<span class="badge text-bg-{}">{}</span>').format(
        TONES.get(word, "secondary"), word.replace("_", " ")
    )


def icon(name: str) -> Markup:
    """An icon that says nothing that the words beside it do not say."""
    return Markup('<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>').format(
        asset("vendor/icons.svg"), name
    )


def asset(name: str) -> str:
    """The address of a static file; it changes with its content, so that browsers may keep it.

    Of a file that was not built, the plain address: a page without its style is better than none.
    """
    try:
        return url_for("ui.asset", name=name, v=_version(name))
    except FileNotFoundError:
        return url_for("ui.asset", name=name)


@cache
def _version(name: str) -> str:
    return sha256((STATIC / name).read_bytes()).hexdigest()[:12]
