from __future__ import annotations

from pathlib import Path

import pytest

from kelpie.job import Direction, Sync, SyncEntry
from kelpie_worker import spool
from kelpie_worker.spool import Spool, log_folder
from kelpie_worker.sync import SyncError
from tests.unit.worker.doubles import shell_job
from tests.waiting import wait_until


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_each_stream_is_whole_and_its_files_appear_when_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MAX_FILE_BYTES", 10)
    spooled = Spool(tmp_path, attempt=3)
    spooled("stdout", b"12345")
    assert [name for name in files(tmp_path) if not name.startswith(".kelpie-")] == []
    spooled("stdout", b"67890!")
    spooled("stderr", b"oh\xff")
    spooled("stdout", b"end")
    spooled.finish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "attempt-0003.stdout.000001.log": b"1234567890!",
        "attempt-0003.stdout.000002.log": b"end",
        "attempt-0003.stderr.000001.log": b"oh\xff",
    }


def test_a_file_appears_after_its_time_though_nothing_more_is_printed(tmp_path: Path) -> None:
    spooled = Spool(tmp_path, attempt=1, max_age_s=0.05)
    spooled("stdout", b"a")
    wait_until(lambda: files(tmp_path) == {"attempt-0001.stdout.000001.log": "a"}, "the file")
    spooled.finish()
    assert len(files(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_costs_the_output_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spooled = Spool(tmp_path / "file", attempt=1)
    spooled("stdout", b"lost")
    (tmp_path / "file").unlink()
    spooled("stdout", b"kept")
    spooled.finish()
    assert files(tmp_path / "file") == {"attempt-0001.stdout.000001.log": "kept"}


def test_only_a_folder_that_something_is_stored_from_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    down = SyncEntry("b", "in/", "in", Direction.DOWNLOAD)
    up = SyncEntry("b", "logs/", "logs", Direction.UPLOAD)
    sync = Sync(before=(down,), during=(up,))
    assert log_folder(shell_job("true", sync=sync)) is None
    for wrong in ("in", "/etc", "logs/.."):
        with pytest.raises(SyncError, match="KELPIE_LOG_DIR"):
            log_folder(shell_job("true", sync=sync, environment={"KELPIE_LOG_DIR": wrong}))
    asked = shell_job("true", sync=sync, environment={"KELPIE_LOG_DIR": "logs"})
    assert log_folder(asked) == tmp_path / "logs"
