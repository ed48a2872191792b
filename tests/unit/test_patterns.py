from __future__ import annotations

import pytest

from kelpie.patterns import compile_pattern


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
    assert compile_pattern(pattern).search(text)


@pytest.mark.parametrize(
    "pattern", [r"(?=x)", r"(?!tmp/)", r"(?<=a)b", r"(a)\1", r"(", r"[z-a]", r"a{1001}", r"*"]
)
def test_what_re2_cannot_run_is_refused_in_words(pattern: str) -> None:
    with pytest.raises(ValueError, match="not possible"):
        compile_pattern(pattern)
