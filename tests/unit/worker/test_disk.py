from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kelpie_worker.disk import MiB, NoRoomError, free_bytes, low_on_space, require_room, used_bytes


def test_a_folder_that_is_not_made_yet_has_the_room_of_its_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    found = free_bytes(tmp_path / "not" / "yet")
    assert found is not None
    assert abs(found - free) < free / 2


def test_the_first_disk_without_room_is_named(tmp_path: Path) -> None:
    assert low_on_space([tmp_path], 1) is None
    assert low_on_space([tmp_path], 0) is None
    why = low_on_space([tmp_path], shutil.disk_usage(tmp_path).total - 1)
    assert why is not None
    assert why.startswith(f"{tmp_path} has ")


@pytest.mark.parametrize(("total_mib", "free_mib"), [(0, 0), (32, 0), (64, 1)])
def test_a_disk_that_never_has_so_much_free_is_no_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_mib: int, free_mib: int
) -> None:
    usage = (total_mib * MiB, (total_mib - free_mib) * MiB, free_mib * MiB)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert low_on_space([tmp_path], 64 * MiB) is None
    assert low_on_space([tmp_path], 64 * MiB, held_bytes=40 * MiB) is None


def test_a_disk_that_tells_nothing_of_its_size_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: (0, 0, 0))
    require_room([(tmp_path / "input", 1)])


def test_files_that_cannot_all_be_written_are_refused_before_the_first(tmp_path: Path) -> None:
    free = free_bytes(tmp_path)
    assert free is not None
    require_room([(tmp_path / "not" / "yet" / str(n), free // 4) for n in range(3)])
    with pytest.raises(
        NoRoomError, match=r"the job brings [\d,.]+ MiB to the disk of .*, which has [\d,.]+ MiB"
    ):
        require_room([(tmp_path / str(n), free // 4) for n in range(5)])
    total = shutil.disk_usage(tmp_path).total
    for size, never in [(total - 1, False), (total + 1, True)]:
        with pytest.raises(NoRoomError) as caught:
            require_room([(tmp_path / "large", size)])
        assert caught.value.never is never


def test_a_file_that_is_there_already_needs_no_room(tmp_path: Path) -> None:
    size = 1 << 60  # a hole: it takes no room
    there = tmp_path / "there"
    with there.open("wb") as file:
        try:
            file.truncate(size)
        except OSError:  # more than this file system's files may have
            size = 1 << 43
            file.truncate(size)
    require_room([(there, size), (tmp_path / "small", 1)])
    with pytest.raises(NoRoomError):
        require_room([(there, size + 1)])


def test_what_folders_hold_is_counted_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "sub" / "b").write_bytes(b"4567")
    assert used_bytes([tmp_path / "a-folder-not-made", tmp_path / "sub"]) == 4
