from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kelpie.job import Direction, Sync, SyncEntry
from kelpie_worker import claims
from kelpie_worker.claims import CLAIMS_NAME, FolderClaims, folders_of
from kelpie_worker.locks import try_lock
from kelpie_worker.sync import SyncError
from kelpie_worker.sync.settings import SyncSettings
from tests.unit.worker.doubles import shell_job


def slot(machine: Path, number: int) -> FolderClaims:
    folder = machine / f"kelpie-slot-{number}"
    folder.mkdir(exist_ok=True)
    return FolderClaims(folder)


@pytest.mark.parametrize("other", ["/data/a", "/data/a/deep/in", "/data", "/"])
def test_no_two_slots_have_folders_that_overlap(tmp_path: Path, other: str) -> None:
    first, second = slot(tmp_path, 1), slot(tmp_path, 2)
    assert first.take("job 1", [Path("/data/b"), Path("/data/a")]) is None
    why = second.take("job 2", [Path("/elsewhere"), Path(other)])
    assert why is not None
    assert "kelpie-slot-1" in why
    assert not second.are_free([Path(other)])
    assert second.take("job 3", [Path("/data/ab"), Path("/other")]) is None
    assert (
        first.take("job 4", [Path("/data/a")]) is None
    )  # its own next job's, while the last one's are stored
    first.give_back("job 1")
    assert second.take("job 2", [Path(other)]) is not None
    first.give_back("job 4")
    assert second.take("job 2", [Path(other)]) is None


def test_a_slot_that_was_killed_keeps_its_folders_until_they_are_emptied(tmp_path: Path) -> None:
    first, second = slot(tmp_path, 1), slot(tmp_path, 2)
    first.take("job 1", [Path("/data")])
    again = slot(tmp_path, 1)
    assert second.take("job 2", [Path("/data")]) is not None
    again.clear()
    assert second.take("job 2", [Path("/data")]) is None


def test_the_folders_of_a_job_are_those_of_all_its_entries_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    down, up = Direction.DOWNLOAD, Direction.UPLOAD
    entries = {"before": (SyncEntry("b", "", "in", down),), "after": (SyncEntry("b", "", "/x/../data", up),)}
    settings = SyncSettings(temp_dir=tmp_path)
    assert folders_of(shell_job("true", sync=Sync(**entries)), settings) == [tmp_path / "in", Path("/data")]
    with pytest.raises(SyncError, match="refused"):
        folders_of(shell_job("true", sync=Sync(during=(SyncEntry("b", "", "/etc", up),))), settings)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"job 1": 3}', '{"job 1": [3]}', "\0", None])
def test_folders_that_cannot_be_read_are_taken_until_they_are_written_anew(
    tmp_path: Path, content: str | None
) -> None:
    first, second = slot(tmp_path, 1), slot(tmp_path, 2)
    file = tmp_path / "kelpie-slot-1" / CLAIMS_NAME
    file.mkdir() if content is None else file.write_text(content)
    with capture_logs() as logs:
        assert "kelpie-slot-1" in (second.take("job 2", [Path("/data")]) or "")
        assert not second.are_free([Path("/data")])
    assert [line["log_level"] for line in logs] == ["warning"]  # said once
    assert second.take("job 3", []) is None
    if content is None:
        file.rmdir()
    assert first.take("job 1", [Path("/elsewhere")]) is None
    assert second.take("job 2", [Path("/data")]) is None


def test_a_slot_that_is_stopped_while_it_takes_folders_holds_up_no_other_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_LOCK_TIMEOUT_S", 0.1)
    first, second = slot(tmp_path, 1), slot(tmp_path, 2)
    assert first.take("job 1", [Path("/data")]) is None
    stopped = try_lock(tmp_path / ".kelpie-slots.lock")
    assert stopped is not None
    why = second.take("job 2", [Path("/other")]) or ""
    assert f"another slot (pid {os.getpid()}) has held" in why
    first.give_back("job 1")
    os.close(stopped)
    assert second.take("job 2", [Path("/data")]) is None
