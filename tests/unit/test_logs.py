"""Lines of logs: one JSON object each, and no secret in any field, text or traceback."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from kelpie import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    "text",
    [
        "key klp_SWORDFISH-swordfish_1 was shown",
        "verify with whsec_SWORDFISH+swordfish/==",
        "cannot reach redis://kelpie:SWORDFISH@10.0.0.5:6379/0",
        "cannot reach redis+sentinel://:SWORDFISH@one:26379,two/name",
        "cannot reach https://user:SWORDFISH@host/path",
        "Authorization: Bearer SWORDFISH.swordfish.x",
    ],
)
def test_secrets_inside_texts_are_hidden(capsys: pytest.CaptureFixture[str], text: str) -> None:
    logs.configure()
    structlog.get_logger().info("event", error=text, nested={"a": [text]})
    logging.getLogger("library").warning("it said %s", text)
    structlog.get_logger().error("failed", exc_info=ValueError(text))
    found = lines(capsys)
    assert len(found) == 3
    assert "SWORDFISH" not in str(found)
    assert str(found).count("[redacted]") + str(found).count("[masked]") >= 4


def test_fields_that_hold_secrets_are_hidden_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger().info("event", password="SWORDFISH", token="SWORDFISH", job_id="j")
    (line,) = lines(capsys)
    assert line["password"] == line["token"] == "[redacted]"
    assert line["job_id"] == "j"


def test_a_log_that_cannot_be_written_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        with pytest.raises(OSError, match="No space left"):
            print("x", file=sys.stderr)
        logs.configure()
        structlog.get_logger().error("event", exc_info=ValueError("x"))
        logging.getLogger("library").warning("it said so")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


class Disk(io.StringIO):
    """A file whose disk is full for a while: half of a text is written then."""

    full = False

    def write(self, text: str) -> int:
        if not self.full:
            return super().write(text)
        super().write(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_whose_disk_was_full_goes_on_with_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr("sys.stderr", disk)
    logs.configure()
    for number, disk.full in enumerate((False, True, True, False)):
        structlog.get_logger().info("event", number=number)
    first, *cut, last = disk.getvalue().splitlines()
    assert [json.loads(line)["number"] for line in (first, last)] == [0, 3]
    assert all(line.startswith('{"number": 1') or not line.strip() for line in cut)


def test_a_text_of_many_lines_is_one_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger().info("first\nsecond", reason="a\r\nb\u2028c")
    (line,) = lines(capsys)
    assert line["event"] == "first\nsecond"


def test_ordinary_text_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    text = "https://host:8080/a@b see http://x.example/c:d and job 1:2@3"
    structlog.get_logger().info(text)
    (line,) = lines(capsys)
    assert line["event"] == text
