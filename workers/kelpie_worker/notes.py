"""Small JSON files for the worker that follows a killed one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write(path: Path, notes: Any) -> None:
    """Replace the file's content at once; without notes the file goes. OSError."""
    if not notes:
        path.unlink(missing_ok=True)
        return
    draft = _draft_of(path)
    draft.write_text(json.dumps(notes))
    os.replace(draft, path)  # noqa: PTH105  (the atomic one, by its name)


def discard_draft(path: Path) -> None:
    """Delete what a worker that was killed as it wrote has left beside the file. OSError."""
    _draft_of(path).unlink(missing_ok=True)


def _draft_of(path: Path) -> Path:
    return path.with_name(path.name + ".new")
