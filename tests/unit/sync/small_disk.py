"""Downloads into a folder that is a small disk: `python -m tests.unit.sync.small_disk BUCKET FOLDER`.

For a mount namespace of its own, where FOLDER is a mount that may be changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kelpie.job import Sync
from kelpie_worker.leased import LeasedJob
from kelpie_worker.sync import NullObserver, SyncEngine, SyncError
from kelpie_worker.sync.settings import SyncSettings
from tests.unit.sync.conftest import down


def main(bucket: str, folder: Path) -> None:
    """Prints, as JSON, what each download says and leaves."""
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temp:
        engine = SyncEngine(SyncSettings(temp_dir=Path(temp), threads=1), NullObserver())

        def download(case: str, prefix: str = "data/", *, compression: bool = False) -> None:
            sync = Sync(before=(down(bucket, prefix, folder),))
            job = engine.prepare(LeasedJob("job", 1, "true", sync=sync, compression=compression))
            try:
                job.download()
                told[case] = ["no error", names()]
            except SyncError as error:
                told[case] = [str(error), names()]
            job.clean()

        def names() -> list[str]:
            return sorted(path.name for path in folder.iterdir())

        download("too large")
        download("full", "packed/", compression=True)  # what it unpacks to is not known before
        told["after cleaning"] = names()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        download("read-only", "packed/", compression=True)
        engine.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
