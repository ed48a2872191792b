"""Which folders a job may have, and what emptying them touches."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import SyncError
from kelpie_worker.sync.folders import job_folder
from tests.unit.sync.conftest import Engines, tree, up


@pytest.mark.parametrize(
    "local_path",
    [
        *("", "/", "//", "/..", ".", "..", "../..", "x/..", "/data/\0x"),
        *("/etc", "/etc/x", "/usr", "/usr/bin", "/proc/self", "/sys", "/dev"),
        *("/tmp", "/tmp/../etc", "/var/lib", "/home", "/root"),
    ],
)
def test_a_folder_that_something_else_lives_in_is_refused_by_name(engines: Engines, local_path: str) -> None:
    with pytest.raises(SyncError) as refused:
        engines.job(Sync(after=(up("bucket", "", local_path),)))
    assert repr(local_path) in str(refused.value)


def test_a_home_the_working_directory_and_what_contains_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/home", "b/work", "c/temp"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "a" / "home"))
    monkeypatch.chdir(tmp_path / "b" / "work")
    for name in ("a/home", "a", "b/work", "b", "c/temp", "c"):
        with pytest.raises(SyncError):
            job_folder(str(tmp_path / name), temp_dir=tmp_path / "c" / "temp")
    for name in ("a/home/x", "b/work/x", "b/other", "c/temp/x", "d"):
        assert job_folder(str(tmp_path / name), temp_dir=tmp_path / "c" / "temp") == tmp_path / name


def test_a_symlink_is_judged_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(SyncError, match="system folder"):
        job_folder(str(tmp_path / "link" / "kelpie"), temp_dir=tmp_path / "temp")


def test_allowed_roots_narrow_the_choice(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (tmp_path / "root" / "out").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("root", "root/out", "root/out/new"):
        job_folder(str(tmp_path / name), allowed_roots=[root], temp_dir=tmp_path / "temp")
    for name in ("elsewhere", "root/../elsewhere", "rootless", "root/link"):
        with pytest.raises(SyncError, match="KELPIE_ALLOWED_ROOTS"):
            job_folder(str(tmp_path / name), allowed_roots=[root], temp_dir=tmp_path / "temp")


@pytest.mark.parametrize("pattern", ["(", "(?=x)", r"(a)\1", "[", "a" * 2000, "a{2000}", "*"])
def test_an_impossible_pattern_fails_the_attempt_before_anything_runs(
    engines: Engines, folder: Path, pattern: str
) -> None:
    with pytest.raises(SyncError, match="pattern"):
        engines.job(Sync(after=(up("bucket", "", folder, pattern),)))
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_an_error(engines: Engines, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SyncError, match="cannot be made"):
        engines.job(Sync(after=(up("bucket", "", tmp_path / "file" / "x"),)))


def test_cleaning_empties_the_jobs_folders_and_touches_nothing_else(engines: Engines, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"p")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "beside").write_bytes(b"b")
    folders = [tmp_path / "job" / name for name in ("one", "two", "three")]
    job = engines.job(Sync(after=tuple(up("bucket", f"{folder.name}/", folder) for folder in folders)))
    for folder in folders[:2]:
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "x").write_bytes(b"x")
        (folder / "link").symlink_to(outside)
        (folder / "deep" / "link").symlink_to(outside / "precious")
        os.mkfifo(folder / "pipe")
    folders[2].rmdir()
    folders[2].symlink_to(outside)  # the command swapped its folder
    job.clean()
    assert [list(folder.iterdir()) for folder in folders] == [[], [], []]
    assert not folders[2].is_symlink()
    assert tree(outside) == {"precious": b"p"}
    assert tree(tmp_path / "job") == {"beside": b"b"}
    (folders[0] / "next job").write_bytes(b"n")
    job.clean()
    assert tree(folders[0]) == {"next job": b"n"}
