from __future__ import annotations

import pytest
import re2

from kelpie.http import patterns


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"\u0041", "A"),
        (r"\u{1F40E}", "🐎"),
        (r"^step-\d+\.ckpt$", "step-12.ckpt"),
        (r"a\/b", "a/b"),
        (r"(?:x|y)+?z", "xyz"),
        (r"(?<name>a)", "a"),
        (r"\\u0041", r"\u0041"),
    ],
)
def test_ecmascript_patterns_match_as_they_do_there(pattern: str, text: str) -> None:
    assert re2.search(patterns.to_re2(patterns.check(pattern)), text)


@pytest.mark.parametrize(
    "pattern", [r"(?=x)", r"(?!tmp/)", r"(?<=a)b", r"(a)\1", r"(", r"[z-a]", r"a{1001}", r"*"]
)
def test_what_re2_cannot_run_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(ValueError, match="RE2 cannot run this pattern"):
        patterns.check(pattern)
