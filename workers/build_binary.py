"""Builds the standalone worker: a folder that needs neither Python nor anything else of its image but glibc.

Run by ``make worker-binary``. The folder is relocatable; ``kelpie-worker`` in it is what is run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "kelpie-worker"
MAX_BYTES = 60_000_000

SERVICES = frozenset({"s3", "sts", "sso", "sso-oidc"})
"""What boto3 may need: the storage, and the ways to its keys."""

LEFT_OUT = (
    *(
        "numpy",
        "flask",
        "gevent",
        "gunicorn",
        "rq",
        "spectree",
        "prometheus_client",
        "werkzeug",
        "jinja2",
        "cryptography",
        "cffi",
    ),
    *("tkinter", "sqlite3", "unittest", "pydoc", "lib2to3", "ensurepip", "setuptools", "pip", "pygments"),
    *("kelpie.http", "kelpie.platform", "kelpie.providers", "kelpie.embedded", "kelpie.demo", "kelpie_web"),
)


def build(target: Path) -> Path:
    """Build below ``target``; the folder of the worker."""
    work = target / "work"
    subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "PyInstaller",
                "--noconfirm",
                "--log-level",
                "WARN",
                "--onedir",
                "--strip",
            ),
            *("--name", NAME, "--distpath", str(target), "--workpath", str(work), "--specpath", str(work)),
            *("--paths", str(ROOT / "app"), "--paths", str(ROOT / "workers")),
            *("--collect-submodules", "kelpie_worker", "--collect-data", "kelpie.store"),
            *("--hidden-import", "kelpie.cli.worker", "--hidden-import", "kelpie.store"),
            *(part for name in LEFT_OUT for part in ("--exclude-module", name)),
            str(ROOT / "workers" / "kelpie_worker" / "binary.py"),
        ],
        check=True,
    )
    shutil.rmtree(work)
    folder = target / NAME
    trim(folder)
    return folder


def trim(folder: Path) -> None:
    """Delete the descriptions of services that a worker never speaks to."""
    for data in ("botocore/data", "boto3/data"):
        for service in (folder / "_internal" / data).iterdir():
            if service.is_dir() and service.name not in SERVICES:
                shutil.rmtree(service)


def size(folder: Path) -> int:
    """Bytes of all its files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def main() -> int:
    """Build, pack, and say how large it is."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    folder = build(target)
    archive = target / f"{NAME}.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, NAME)
    took = size(folder)
    print(  # noqa: T201 -- a build prints  (what the command is for)
        f"{folder}: {took / 1e6:.1f} MB; {archive}: {archive.stat().st_size / 1e6:.1f} MB"
    )
    if took >= MAX_BYTES:
        print(f"that is more than {MAX_BYTES / 1e6:.0f} MB", file=sys.stderr)  # noqa: T201 -- a build prints
    return 0 if took < MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
