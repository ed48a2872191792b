from __future__ import annotations

import shutil
from pathlib import Path

from kelpie_worker.disk import free_bytes, low_on_space


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
