"""Reading logs: what the client resumes, and what the command line shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kelpie import Client
from kelpie.cli import main
from tests.unit.cli.conftest import JOB_ID, Said, Scripted
from tests.unit.cli.test_commands import ESCAPE

Kelpie = Callable[..., Said]
STREAM = {"Content_Type": "text/event-stream"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelpie.client.feed._RETRY_S", 0.001)


def line(attempt: int, number: int, text: str, stream: str = "stdout") -> dict[str, Any]:
    return {
        "id": f"{attempt}-{number}",
        "attempt": attempt,
        "stream": stream,
        "time": "2026-11-24T00:00:00.000Z",
        "text": text,
    }


def page(*lines: dict[str, Any], gap: bool = False) -> dict[str, Any]:
    last = lines[-1]["id"] if lines else "0-0"
    return {"_count": len(lines), "lines": list(lines), "next": last, "gap": gap, "status": "running"}


def told(one: dict[str, Any]) -> bytes:
    return f"id: {one['id']}\nevent: log\ndata: {json.dumps(one)}\n\n".encode()


END = b'event: end\ndata: {"status": "completed"}\n\n'


def test_logs_shows_lines_and_says_where_an_attempt_begins(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, page(line(1, 7, "a"), line(2, 1, "b\tc"), line(2, 2, "d", "stderr"), gap=True))
    said = kelpie("logs", JOB_ID)
    assert said.out.splitlines() == ["… older lines are not kept any more", "a", "b       c", "d"]
    assert said.err.splitlines() == ["── attempt 1 ──", "── attempt 2 ──"]
    assert kelpie("logs", JOB_ID, "--attempt", "2", "--stdout").out == "b       c\n"
    assert kelpie("logs", JOB_ID, "-t", "--stderr").out == "2026-11-24T00:00:00.000Z  d\n"


def test_a_terminal_sees_text_only(kelpie: Kelpie, server: Scripted) -> None:
    server.answer(200, page(line(1, 1, ESCAPE + "x" * 8000)))
    assert not set(kelpie("logs", JOB_ID).out) & set("\x1b\x07\r\u202e")
    assert json.loads(kelpie("logs", JOB_ID, "--json").out)["text"] == ESCAPE + "x" * 8000


def test_raw_lines_are_what_was_printed(server: Scripted, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    server.answer(200, page(line(1, 1, "\x1b[31mred\x1b[0m \udcff")))
    with pytest.raises(SystemExit):
        main(["logs", "--raw", JOB_ID])
    assert capfdbinary.readouterr().out == b"\x1b[31mred\x1b[0m ?\n"


def test_a_place_outdoes_a_number_of_lines_and_all_pages_after_it_are_read(server: Scripted) -> None:
    first = [line(1, number, "x") for number in range(1, 1001)]
    server.answer(200, page(*first))
    server.answer(200, page(line(1, 1001, "last")))
    with Client() as client:
        assert len(list(client.logs(JOB_ID, after="0", tail=5))) == 1001


def test_all_pages_are_read(server: Scripted) -> None:
    first = [line(1, number, str(number)) for number in range(1, 1001)]
    server.answer(200, page(*first))
    server.answer(200, page(line(1, 1001, "last")))
    with Client() as client:
        assert [one.text for one in client.logs(JOB_ID)] == [*map(str, range(1, 1001)), "last"]
    assert [request.path for request in server.requests] == [
        f"/jobs/{JOB_ID}/logs?page_size=1000",
        f"/jobs/{JOB_ID}/logs?after=1-1000&page_size=1000",
    ]


def test_following_goes_on_after_what_was_heard_and_ends_with_the_job(
    kelpie: Kelpie, server: Scripted
) -> None:
    server.answer(200, b"retry: 1\n\n" + told(line(1, 1, "a")), **STREAM)
    server.answer(503, {"error": "Service Unavailable"})
    server.answer(200, b"event: gap\ndata: {}\n\n" + told(line(1, 9, "b")) + END, **STREAM)
    said = kelpie("logs", "-f", "--tail", "5", JOB_ID)
    assert said.code == 0
    assert said.out.splitlines() == ["a", "… older lines are not kept any more", "b"]
    assert {request.path for request in server.requests} == {f"/jobs/{JOB_ID}/logs?tail=5"}
    asked = [request.headers.get("Last-Event-ID") for request in server.requests]
    assert asked == [None, "1-1", "1-1"]
