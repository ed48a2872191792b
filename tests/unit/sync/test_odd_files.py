"""Whatever a command leaves in its folders is stored as it is, or passed over for a reason that is told."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kelpie.embedded.s3 import S3Server
from kelpie.job import Sync
from kelpie_worker.sync import JobSync, SyncError, watcher
from kelpie_worker.sync.content_types import content_type
from kelpie_worker.sync.names import NameIndex
from kelpie_worker.sync.tree import Tree
from tests.bench.crew import ROOT
from tests.fault_proxy import FaultProxy, Request, is_part
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree, up
from tests.waiting import wait_until

NAMES = [
    "empty",
    "new\nline",
    "-rf",
    " blanks ",
    "per%20cent + & # ? = ; : * \" ' < > | ~",
    "\u65e5\u672c\u8a9e \U0001f40e",
    unicodedata.normalize("NFC", "\u00e9t\u00e9"),
    unicodedata.normalize("NFD", "\u00e9t\u00e9"),
    "x" * 255,
    "\u00fc" * 127,
    "tab\there",
    "deep/er/and/deeper/x",
]


@pytest.fixture(autouse=True)
def no_rescans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "RESCAN_S", 1000.0)


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


def during(engines: Engines, store: Bucket, folder: Path, **settings: Any) -> JobSync:
    return engines.job(Sync(during=(up(store.name, "ck/", folder),)), engine=engines.engine(**settings))


def stored(store: Bucket) -> dict[str, bytes]:
    return {key.removeprefix("ck/"): data for key, data in store.contents().items()}


def test_odd_names_and_kinds_of_files_come_back_as_they_went(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),), after=(up(store.name, "out/", folder),)))
    job.watch()
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "empty" else name.encode())
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(PART + 1)
    (folder / "hard").hardlink_to(folder / "empty")
    (folder / "linked").symlink_to("sparse")
    (folder / "deep" / "up").symlink_to("..")  # a loop
    os.utime(folder / "sparse", ns=(10**18 + 1, 10**18 + 1))
    wanted = tree(folder)
    assert wanted.keys() == {*NAMES, "sparse", "hard", "linked"}
    everything = {f"ck/{name}" for name in wanted}
    wait_until(lambda: everything - store.names() == set(), "all are stored while the command runs")
    job.drain()
    job.stage()
    job.finalize()
    job.clean()
    for prefix in ("ck", "out"):
        again = tmp_path / "again" / prefix
        engines.job(Sync(before=(down(store.name, f"{prefix}/", again),))).download()
        assert tree(again) == wanted
        assert (again / "sparse").stat().st_mtime_ns == 10**18 + 1


def test_a_name_that_is_no_text_fails_by_name_and_stops_nothing_else(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    (folder / "fine").write_bytes(b"f")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\xfe")).write_bytes(b"b")
    with pytest.raises(SyncError, match=r"bad.*not valid UTF-8"):
        job.drain()
    assert stored(store) == {"fine": b"f"}


def test_what_is_no_file_is_passed_over_with_a_line_that_says_so(
    engines: Engines, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    with capture_logs() as lines, socket.socket(socket.AF_UNIX) as server:
        job = during(engines, store, folder)
        job.watch()
        os.mkfifo(folder / "pipe")
        os.chdir(folder)  # a socket's path must be short
        try:
            server.bind("socket")
        finally:
            os.chdir(ROOT)
        (folder / "out").symlink_to(tmp_path / "temp")
        (folder / "real").write_bytes(b"r")
        job.drain()
        job._mirrors[0].scan()
    assert stored(store) == {"real": b"r"}
    told = [Path(line["path"]).name for line in lines if line["event"] == "not uploaded"]
    assert sorted(told) == ["out", "pipe", "socket"]  # once each, however often it is scanned


def test_a_file_that_cannot_be_read_fails_by_name(
    engines: Engines, store: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = Tree.open

    def refuse(self: Tree, name: str) -> int:
        if name == "locked":  # root may read everything: the kernel's answer to others
            raise PermissionError(13, "Permission denied")
        return really_open(self, name)

    monkeypatch.setattr(Tree, "open", refuse)
    job = during(engines, store, folder)
    job.watch()
    (folder / "fine").write_bytes(b"f")
    (folder / "locked").write_bytes(b"l")
    with pytest.raises(SyncError, match="locked cannot be read: Permission denied"):
        job.drain()
    assert stored(store) == {"fine": b"f"}


@pytest.mark.parametrize(
    ("change", "end", "settings"),
    [
        (lambda path: path.open("ab").write(b"more"), b"o" * 3 * PART + b"more", {}),
        (lambda path: os.truncate(path, PART), b"o" * PART, {}),
        (lambda path: os.truncate(path, PART), b"o" * PART, {"transport": "boto3"}),
        (lambda path: path.unlink(), None, {}),
    ],
    ids=["grows", "shrinks", "shrinks, boto3", "vanishes"],
)
def test_a_file_that_changes_during_its_upload_is_stored_as_it_became(
    engines: Engines,
    store: Bucket,
    folder: Path,
    proxy: FaultProxy,
    change: Callable[[Path], object],
    end: bytes | None,
    settings: dict[str, Any],
) -> None:
    once = threading.Lock()

    def rule(request: Request) -> None:
        if is_part(request) and once.acquire(blocking=False):
            change(folder / "x")

    proxy.rule = rule
    job = during(engines, store, folder, **settings)
    job.watch()
    (folder / "x").write_bytes(b"o" * 3 * PART)
    wait_until(once.locked, "the upload has begun")
    job.drain()
    assert stored(store) == ({} if end is None else {"x": end})
    assert store.multipart_uploads() == []


def test_a_folder_replaced_by_a_file_and_back_leaves_what_is_there_last(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = during(engines, store, folder)
    job.watch()
    (folder / "d").mkdir()
    (folder / "d" / "x").write_bytes(b"x")
    wait_until(lambda: stored(store) == {"d/x": b"x"}, "the folder's file is stored")
    shutil.rmtree(folder / "d")
    (folder / "d").write_bytes(b"d")
    wait_until(lambda: stored(store) == {"d": b"d"}, "the file took its place")
    (folder / "d").unlink()
    (folder / "d").mkdir()
    (folder / "d" / "y").write_bytes(b"y")
    job.drain()
    assert stored(store) == {"d/y": b"y"}


def test_a_mount_point_is_watched_staged_and_emptied(s3: S3Server, store: Bucket, tmp_path: Path) -> None:
    script = """
import subprocess, sys
from pathlib import Path
from dataclasses import replace
from kelpie.job import Sync
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync.settings import SyncSettings
from kelpie_worker.sync import NullObserver, SyncEngine
from tests.unit.sync.conftest import up
folder, temp, bucket = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
folder.mkdir(); temp.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
engine = SyncEngine(replace(SyncSettings(), temp_dir=temp), NullObserver())
sync = Sync(during=(up(bucket, "ck/", folder),), after=(up(bucket, "out/", folder),))
job = engine.prepare(LeasedJob(id="mounted", attempt=1, command="true", sync=sync))
job.watch()
(folder / "sub").mkdir()
(folder / "sub" / "x").write_bytes(b"x")
job.drain(); job.stage()
assert list(folder.iterdir()) == []
(folder / "next").write_bytes(b"another job's")
job.finalize(); job.clean()
assert [each.name for each in folder.iterdir()] == ["next"]
assert list(temp.iterdir()) == []
engine.close()
"""
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", script),
            *(str(tmp_path / "mounted"), str(tmp_path / "temp"), store.name),
        ],
        cwd=ROOT,
        env=os.environ | s3.environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    assert store.contents() == {"ck/sub/x": b"x", "out/sub/x": b"x"}


def test_objects_say_what_they_hold(engines: Engines, store: Bucket, folder: Path) -> None:
    job = during(engines, store, folder)
    job.watch()
    (folder / "a.json").write_bytes(b"{}")
    (folder / "big.png").write_bytes(b"p" * (PART + 1))
    job.drain()
    kinds = {
        name: store.client.head_object(Bucket=store.name, Key=f"ck/{name}")["ContentType"]
        for name in ("a.json", "big.png")
    }
    assert kinds == {"a.json": "application/json", "big.png": "image/png"}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("x/A.JSON", "application/json"),
        ("a.txt", "text/plain"),
        ("a.txt.gz", "application/gzip"),
        ("a.tar.bz2", "application/x-bzip2"),
        ("a.ckpt", "application/octet-stream"),
        ("no-ending", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
        (".png", "application/octet-stream"),
        ("folder.png/", "application/octet-stream"),
    ],
)
def test_the_ending_of_a_key_tells_its_kind(key: str, kind: str) -> None:
    assert content_type(key) == kind


def test_a_link_to_a_folder_above_is_not_followed_wherever_a_scan_begins(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "x").write_bytes(b"x")
    for name in ("deep/up", "deep/er/up"):
        (folder / name).symlink_to(folder)
    (folder / "deep" / "er" / "side").symlink_to(folder / "deep")
    tree = Tree(folder)
    for below in ("", "deep", "deep/er"):
        assert [name for name, _ in tree.files(below)] == ["deep/er/x"]
    for below in ("deep/up", "deep/er/up", "deep/er/side", "nowhere"):
        assert list(tree.files(below)) == []


def test_names_are_found_by_their_folder() -> None:
    index = NameIndex()
    for name in ("a", "a/b", "a/b", "a/c/d", "ab", "e/f"):
        index.add(name)
    assert sorted(index.below()) == ["a", "a/b", "a/c/d", "ab", "e/f"]
    assert sorted(index.below("a")) == ["a", "a/b", "a/c/d"]
    assert index.below("a/c") == ["a/c/d"]
    for name in ("a", "a/b", "e/f", "nowhere", "a/nothing"):
        index.discard(name)
    assert sorted(index.below()) == ["a/c/d", "ab"]
    index.discard("a/c/d")
    index.discard("ab")
    assert index.below() == []
    assert index._children == {}
