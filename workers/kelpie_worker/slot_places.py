"""Where each slot of a machine has what is its own: its state file, its journals, its folders."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kelpie_worker.settings import Settings

_PREFIX = "kelpie-slot-"
SLOT_FOLDERS = f"{_PREFIX}*"


def settings_of_slot(settings: Settings, slot: int) -> Settings:
    """The settings of one slot, from 1: what would collide with the other slots is its own.

    What concerns the machine (notices, its replacement, what its end would cost) is the supervisor's
    business.
    """
    own = f"slot-{slot}"
    return replace(
        settings,
        slot=slot,
        slots=1,
        state_file=slot_folder(settings, slot) / settings.state_file.name,
        input_dir=str(Path(settings.input_dir) / own),
        output_dir=str(Path(settings.output_dir) / own),
        checkpoint_dir=str(Path(settings.checkpoint_dir) / own),
        notices="none",
        sync=replace(settings.sync, temp_dir=settings.sync.temp_dir / f"{_PREFIX}{slot}"),
    )


def slot_folder(settings: Settings, slot: int) -> Path:
    """Where the slot keeps its files, beside the state file of a worker without slots."""
    return settings.state_file.absolute().with_name(f"{_PREFIX}{slot}")


def slot_folders(settings: Settings) -> Iterator[tuple[int, Path]]:
    """Those that exist: number and folder."""
    for folder in settings.state_file.absolute().parent.glob(SLOT_FOLDERS):
        number = folder.name.removeprefix(_PREFIX)
        if number.isascii() and number.isdecimal():
            yield int(number), folder


class OtherSlots:
    """The other slots of the machine, as their state files show them."""

    def __init__(self, own: Settings) -> None:
        self._own = own.state_file.absolute()

    def idle_for(self, seconds: float) -> bool:
        """Whether none of them has had a job for so long."""
        for file in self._own.parent.parent.glob(f"{SLOT_FOLDERS}/{self._own.name}"):
            if file == self._own:
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                changed_s = time.time() - file.stat().st_mtime
                jobs = json.loads(file.read_text())["jobs"]
                if any(job["end"] is None for job in jobs) or (jobs and changed_s < seconds):
                    return False
        return True
