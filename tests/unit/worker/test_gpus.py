from __future__ import annotations

import os
from pathlib import Path

import pytest

from kelpie.errors import StartupError
from kelpie_worker import gpus as gpus_module
from kelpie_worker.gpus import split, visible_gpus

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b7a44fa5-0000-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 2: a name (with brackets) and no end
"""
WHOLE = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
PARTS = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"]


def test_they_are_those_named_else_the_containers_else_all_that_the_driver_lists(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && cat <<'EOF'\n{LISTED}EOF\n")
    tool.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", env["PATH"])
        assert visible_gpus("", env) == [WHOLE, *PARTS]
        tool.write_text("#!/bin/sh\necho No devices were found; exit 6\n")
        assert visible_gpus("", env) == []
        tool.unlink()
        assert visible_gpus("", env) == []
    assert visible_gpus("", {"CUDA_VISIBLE_DEVICES": "3, 1,GPU-a,1"}) == ["3", "1", "GPU-a"]
    assert visible_gpus("5", {"CUDA_VISIBLE_DEVICES": "3"}) == ["5"]
    for nothing in ("", "-1", "NoDevFiles"):
        assert visible_gpus("", {"CUDA_VISIBLE_DEVICES": nothing}) == []
    assert visible_gpus("none", {"CUDA_VISIBLE_DEVICES": "3"}) == []
    assert visible_gpus("", {"CUDA_VISIBLE_DEVICES": "0,-1,1"}) == ["0"]


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("echo no driver; exit 9", "ended with 9: 'no driver'"),
        ("echo Unknown Error", "ended with 0: 'Unknown Error'"),
        ("exec sleep 300", "has not ended"),
    ],
)
def test_a_driver_that_cannot_tell_gives_no_slot_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, why: str
) -> None:
    if "sleep" in does:
        monkeypatch.setattr(gpus_module, "_LIST_TIMEOUT_S", 0.2)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{does}\n")
    tool.chmod(0o755)
    with pytest.raises(StartupError, match=f"{why}.*KELPIE_GPUS"):
        visible_gpus("", {"PATH": f"{tmp_path}:{os.environ['PATH']}"})


@pytest.mark.parametrize(
    ("gpus", "slots", "shares"),
    [
        ("", 2, [[], []]),
        ("01", 2, [["0"], ["1"]]),
        ("0123", 2, [["0", "1"], ["2", "3"]]),
        ("01234", 2, [["0", "1"], ["2", "3", "4"]]),
        ("0", 3, [["0"], ["0"], ["0"]]),
        ("01", 4, [["0"], ["0"], ["1"], ["1"]]),
        ("012", 1, [["0", "1", "2"]]),
    ],
)
def test_they_are_divided_among_the_slots(gpus: str, slots: int, shares: list[list[str]]) -> None:
    assert split(list(gpus), slots) == shares
