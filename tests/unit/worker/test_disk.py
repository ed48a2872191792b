from __future__ import annotations

import shutil
from pathlib import Path

from kelpie_worker.disk import free_bytes, low_on_space, used_bytes


def test_a_folder_that_is_not_made_yet_has_the_room_of_its_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    found = free_bytes(tmp_path / "not" / "yet")
    assert found is not None
    assert abs(found - free) < free / 2


def test_the_first_disk_without_room_is_named(tmp_path: Path) -> None:
    assert low_on_space([tmp_path], 1) is None
    assert low_on_space([tmp_path], 0) is None
    why = low_on_space([tmp_path], 1 << 60)
    assert why is not None
    assert why.startswith(f"{tmp_path} has ")


def test_what_folders_hold_is_counted_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "sub" / "b").write_bytes(b"4567")
    assert used_bytes([tmp_path / "a-folder-not-made", tmp_path / "sub"]) == 4
