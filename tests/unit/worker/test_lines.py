from __future__ import annotations

import pytest

from kelpie.job import MAX_LOG_LINE_CHARS
from kelpie_worker.lines import MAX_OPEN_S, LineCutter

LONG = MAX_LOG_LINE_CHARS


def cut(*pieces: bytes) -> list[str]:
    cutter = LineCutter()
    return [line for piece in pieces for line in cutter.feed(piece, 0)] + list(cutter.flush())


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\n", b"\n", b"c"], ["ab", "", "c"]),
        ([b"dos\r\nunix\n"], ["dos", "unix"]),
        ([b"dos\r", b"\nunix\n"], ["dos", "unix"]),
        ([b" 10%\r 20%\r", b"100%\n"], ["100%"]),
        ([b" 10%\r 20%\r"], [" 20%"]),
        ([b"caf\xc3", b"\xa9\xff\n"], ["café\ufffd"]),
        ([b"\x1b[31mred\x00\n"], ["\x1b[31mred\x00"]),
        ([b"x" * (2 * LONG + 1) + b"\n"], ["x" * LONG, "x" * LONG, "x"]),
        ([], []),
    ],
)
def test_lines_are_what_a_screen_would_show(pieces: list[bytes], lines: list[str]) -> None:
    assert cut(*pieces) == lines


def test_a_line_without_end_is_told_in_pieces_and_no_character_is_torn() -> None:
    pieces = cut(*["é".encode() * 30_001] * 10)
    assert "".join(pieces) == "é" * 300_010
    assert max(map(len, pieces)) <= LONG


def test_an_open_line_waits_for_its_end_but_not_for_ever() -> None:
    cutter = LineCutter()
    assert list(cutter.feed(b"done\nPassword: ", 100.0)) == ["done"]
    assert list(cutter.feed(b"?", 104.0)) == []
    assert list(cutter.flush(99.9 + MAX_OPEN_S)) == []
    assert list(cutter.flush(100.0 + MAX_OPEN_S)) == ["Password: ?"]
    assert list(cutter.flush()) == []
