"""The standalone worker runs real jobs in a root folder that holds no Python, only glibc and a shell.

Not part of the suite: ``make worker-binary`` builds it and runs this, with its folder in
KELPIE_WORKER_BINARY. Needs root, for the other root folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kelpie.embedded.s3 import S3Server
from tests.api import ApiUser
from tests.factories import shell
from tests.waiting import wait_until

BINARY = Path(os.environ["KELPIE_WORKER_BINARY"]).resolve()
TOOLS = ("sh", "cat", "cp", "env", "mkdir", "mv", "rm", "sleep", "touch")

COUNTS = """
n=$(cat ck/n 2>/dev/null || cat in/first)
while [ "$n" -lt 40 ]; do
  n=$((n + 1))
  echo $n > ck/.n; mv ck/.n ck/n
  echo "{\\"step\\": $n, \\"total\\": 40, \\"checkpoint\\": true}" >> "$KELPIE_PROGRESS_FILE"
  sleep 0.05
done
mkdir -p out; cp ck/n out/result; env > out/env
"""


def libraries_of(program: Path) -> Iterator[Path]:
    """What the loader needs to start it, the loader itself among it."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    for word in listed.split():
        if word.startswith("/"):
            yield Path(word)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """A root folder with a shell, a few tools, the C library, and the worker."""
    root = tmp_path / "image"
    for folder in ("bin", "proc", "dev", "tmp", "work", "etc"):
        (root / folder).mkdir(parents=True)
    needed: set[Path] = set()
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None
        real = Path(found).resolve()
        shutil.copy(real, root / "bin" / name)
        needed |= {*libraries_of(real)}
    needed |= {*libraries_of(BINARY / "kelpie-worker")}
    for library in needed:
        (root / str(library.parent).lstrip("/")).mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / str(library).lstrip("/"))
    libc = next(library for library in needed if library.name.startswith("libc.so"))
    for name in ("libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"):  # of glibc too
        if (libc.parent / name).exists():
            shutil.copy(libc.parent / name, root / str(libc.parent / name).lstrip("/"))
    shutil.copytree(BINARY, root / "opt" / "anywhere", symlinks=True)  # relocatable
    os.mknod(root / "dev" / "null", 0o20666, os.makedev(1, 3))
    os.mknod(root / "dev" / "urandom", 0o20666, os.makedev(1, 9))
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    yield root
    subprocess.run(["umount", "-l", str(root / "proc")], check=True)


@pytest.mark.parametrize(("slots", "transport"), [("1", "auto"), ("2", "boto3")])
def test_it_runs_jobs_with_data_where_there_is_no_python(
    api: ApiUser, s3: S3Server, bucket: str, image: Path, slots: str, transport: str
) -> None:
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin")
    assert chroot is not None
    inside = [chroot, str(image), "/bin/sh", "-c"]
    assert subprocess.run([*inside, "command -v python3"], env={"PATH": "/bin"}, check=False).returncode != 0
    group = f"group-{uuid.uuid4().hex[:8]}"
    client = s3.client()
    client.put_object(Bucket=bucket, Key="in/first", Body=b"3\n")

    def submit(name: str) -> str:
        down, up = {"bucket": bucket, "direction": "download"}, {"bucket": bucket, "direction": "upload"}
        sync = {
            "before": [down | {"prefix": "in/", "local_path": f"{name}/in"}],
            "during": [up | {"prefix": f"{name}/ck/", "local_path": f"{name}/ck"}],
            "after": [up | {"prefix": f"{name}/out/", "local_path": f"{name}/out"}],
        }
        body = shell(f"cd {name}; {COUNTS}", container_group_id=group, sync=sync, heartbeat_interval=1)
        return str(api.submit(body)["id"])

    jobs = {name: submit(name) for name in ("a", "b")}
    environment = {
        "PATH": "/bin",
        "HOME": "/tmp",
        "KELPIE_API_URL": api.url,
        "KELPIE_API_KEY": api.key,
        "KELPIE_IMDS_URL": "http://127.0.0.1:9",
        "KELPIE_SYNC_TRANSPORT": transport,
        **s3.environment,
    }
    begun = time.monotonic()
    line = f"/opt/anywhere/kelpie-worker --queue {group} --machine-id bare --slots {slots}"
    worker = subprocess.Popen(
        [*inside, f"cd /work && exec {line}"],
        env=environment,
    )
    try:
        for name, job_id in jobs.items():
            wait_until(lambda job_id=job_id: ended(api.job(job_id)), f"job {name} to end", timeout_s=120)
        took = time.monotonic() - begun
        for name, job_id in jobs.items():
            job = api.job(job_id)
            assert job["status"] == "completed", job["attempts"]
            assert (job["progress"]["step"], job["progress"]["fraction"]) == (40, 1.0)
            assert client.get_object(Bucket=bucket, Key=f"{name}/out/result")["Body"].read() == b"40\n"
            assert client.get_object(Bucket=bucket, Key=f"{name}/ck/n")["Body"].read() == b"40\n"
            told = client.get_object(Bucket=bucket, Key=f"{name}/out/env")["Body"].read().decode()
            assert "LD_LIBRARY_PATH" not in told  # the loader's own is not the command's
            assert "_PYI_" not in told
            assert api.key not in told
    finally:
        worker.terminate()
        code = worker.wait(60)
    assert code == 0
    print(f"two jobs with {slots} slot(s), transport {transport}: {took:.1f} s")


def ended(job: dict[str, Any]) -> bool:
    """Whether it has."""
    return job["status"] in {"completed", "failed", "canceled"}
