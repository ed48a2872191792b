"""Mutants that change nothing that anybody could notice, each with the reason."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""By script, line before and line after."""
