"""A worker that was killed leaves nothing to the next job of its node."""

from __future__ import annotations

from pathlib import Path

import pytest

from kelpie_worker.sync.errors import SyncError
from kelpie_worker.sync.journal import FolderJournal

JOB = "0f3c1f7a-0000-4000-8000-000000000000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "node" / "ck"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "stale").write_text("of a dead attempt")
    return folder


def test_the_folders_and_copies_of_a_killed_worker_are_emptied_and_nothing_else(
    tmp_path: Path, folder: Path
) -> None:
    journal = tmp_path / "journal.json"
    FolderJournal(journal, tmp_path).begin(JOB, 3, [folder])
    staged = folder.parent / f".kelpie-{JOB[:8]}-x"
    staged.mkdir()
    other = folder.parent / ".kelpie-11111111-x"
    other.mkdir()
    (folder.parent / "kept").write_text("mine")
    FolderJournal(journal, tmp_path).recover()
    assert list(folder.iterdir()) == []
    assert {path.name for path in folder.parent.iterdir()} == {"ck", "kept", other.name}
    assert not journal.exists()


def test_after_the_end_of_every_attempt_nothing_is_emptied(tmp_path: Path, folder: Path) -> None:
    journal = tmp_path / "journal.json"
    first = FolderJournal(journal, tmp_path)
    first.begin(JOB, 1, [folder])
    first.end(JOB, 1)
    FolderJournal(journal, tmp_path).recover()
    assert (folder / "deep" / "stale").exists()


def test_one_attempt_ends_while_another_goes_on(tmp_path: Path, folder: Path) -> None:
    journal = tmp_path / "journal.json"
    first = FolderJournal(journal, tmp_path)
    first.begin(JOB, 1, [tmp_path / "other"])
    first.begin(JOB, 2, [folder])
    first.end(JOB, 1)
    FolderJournal(journal, tmp_path).recover()
    assert list(folder.iterdir()) == []


def test_an_unreadable_journal_stops_nobody(tmp_path: Path, folder: Path) -> None:
    journal = tmp_path / "journal.json"
    journal.write_text("{")
    FolderJournal(journal, tmp_path).recover()
    assert (folder / "deep" / "stale").exists()


def test_a_journal_that_cannot_be_written_fails_the_attempt_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(SyncError, match="cannot be written"):
        FolderJournal(tmp_path / "no" / "journal.json", tmp_path).begin(JOB, 1, [tmp_path])
