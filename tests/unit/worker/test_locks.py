"""Who has a lock, and who waits for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kelpie_worker import slot
from kelpie_worker.locks import holder, try_lock
from kelpie_worker.stop import Stop
from tests.waiting import wait_until


def test_a_lock_is_one_processs_and_names_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text("12345678")  # of whoever had it last
    taken = try_lock(file)
    assert taken is not None
    assert try_lock(file) is None
    assert holder(file) == os.getpid()
    os.close(taken)
    again = try_lock(file)
    assert again is not None
    os.close(again)


@pytest.mark.parametrize("content", [None, "", "nobody"])
def test_a_lock_whose_holder_nobody_can_tell_harms_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "lock").write_text(content)
    assert holder(tmp_path / "lock") is None


def test_a_slot_that_waits_for_its_lock_says_once_for_what_and_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "_LOCK_POLL_S", 0.01)
    lock = tmp_path / slot.LOCK_NAME
    taken, tries, stop = try_lock(lock), [], Stop()
    assert taken is not None
    monkeypatch.setattr(slot, "try_lock", lambda file: tries.append(file) or try_lock(file))
    got: list[bool] = []
    with capture_logs() as logs:
        waits = threading.Thread(target=lambda: got.append(slot.wait_for_lock(tmp_path, stop)))
        waits.start()
        wait_until(lambda: len(tries) > 3, "some tries")
        os.close(taken)
        waits.join()
    assert got == [True]
    assert [(line["path"], line["pid"]) for line in logs] == [(str(lock), os.getpid())]
    stop.request()
    assert not slot.wait_for_lock(tmp_path, stop)
