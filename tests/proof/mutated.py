"""A pytest plugin: the tests run on the scripts that the file in KELPIE_MUTANT holds instead of ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kelpie.store import scripts

_read = scripts.read_lua
_mutated: dict[str, str] = json.loads(Path(os.environ["KELPIE_MUTANT"]).read_text(encoding="utf-8"))

scripts.read_lua = lambda name: _mutated.get(name) or _read(name)
