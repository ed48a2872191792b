"""Every command and snippet of README and docs is run, page by page, or says on its page why it is not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from kelpie import Client
from kelpie.embedded.s3 import s3_client
from kelpie.job import JobStatus
from tests.api import environment_without_kelpie
from tests.system.snippets import PAGES, ROOT, RUN_BY, snippets
from tests.system.test_up import Up, kelpie_up

TOOLS = ("bash", "curl", "jq")
SIMULATION = """\
import pathlib

pathlib.Path("out").mkdir(exist_ok=True)
pathlib.Path("out", "result").write_text("42")
"""
RUN = [page for page in PAGES if any(snippet.reason is None for snippet in snippets(page))]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """What the README's first command after `make demo` starts, with what its reader has by then."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and "CI" not in os.environ:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert not missing
    data = tmp_path_factory.mktemp("up") / "data"
    with kelpie_up(data, "--workers", "1") as running:
        variables = running.ready().variables
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        storage = s3_client(*(variables[name] for name in names))
        storage.create_bucket(Bucket="bucket")
        storage.put_object(Bucket="bucket", Key="results/energies.csv", Body=b"1,2\n")
        storage.close()
        yield running


@pytest.fixture
def home(tmp_path: Path, up: Up) -> Path:
    """The folder of somebody who has a program, a job and some data."""
    (tmp_path / "sim.py").write_text(SIMULATION)
    (tmp_path / "job.json").write_text('{"command": "true", "container_group_id": "sims", "sync": {}}')
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "part-1").write_text("1")
    (tmp_path / "kelpie-data").symlink_to(up.data)
    return tmp_path


def filled_in(up: Up) -> dict[str, str]:
    """What a reader of a page puts in for its words in capitals; all of it exists."""
    with up.client() as client:
        job = client.submit(["sh", "-c", "echo step 1; echo oops >&2"], queue="default")
        assert client.wait(job.id).status == JobStatus.COMPLETED
        _, own_key = client.create_own_key()
        poll = {
            "machine_id": "node-7",
            "container_group_id": "idle",
            "wait": "0",
        }  # a node of this name is there
        urllib3.request(
            "GET", f"{client.url}/work", fields=poll, headers={"X-Kelpie-Key": up.variables["KELPIE_API_KEY"]}
        )
    with Client(client.url, json.loads((up.data / "credentials.json").read_text())["admin_key"]) as admin:
        user = admin.create_user(f"reader-{uuid.uuid4().hex[:8]}")
        admin.create_key(user.id)
        key = admin.keys(user.id)[0]
        group = str(uuid.uuid4())
        admin.put_container_group(group, name="idle", organization="default", project="default")
    with up.client() as client:
        client.set_scaling_rule(group, max_replicas=2)
    return {
        "JOB": job.id,
        "JOB_ID": job.id,
        "ID": job.id,
        "USER_ID": user.id,
        "KEY_ID": key.id,
        "YOUR_KEY_ID": own_key.id,
        "GROUP_ID": group,
    }


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page: Path, up: Up, home: Path) -> None:
    variables = up.variables
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = environment_without_kelpie() | variables | {"HOME": str(home), "PATH": path}
    names = filled_in(up)
    for snippet in snippets(page):
        if snippet.reason is None:
            run = subprocess.run(
                [*RUN_BY[snippet.language], snippet.filled(names)],
                cwd=home, env=environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert run.returncode == 0, (
                f"{page}:{snippet.line}: {snippet.filled(names)}{run.stdout}{run.stderr}"
            )


def test_a_snippet_that_is_not_run_says_why() -> None:
    reasons = [snippet.reason for page in PAGES for snippet in snippets(page) if snippet.reason is not None]
    assert all(len(reason.split()) >= 3 for reason in reasons)
    assert len(RUN) > 5
