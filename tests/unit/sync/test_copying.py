"""``kelpie data``: folders to a bucket and back, as its user sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fault_proxy import Answer, FaultProxy, Request, error, is_fetch, is_part, is_put
from tests.unit.sync.conftest import Bucket, tree
from tests.waiting import wait_until

Data = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(emptied_store: Bucket) -> Bucket:
    return emptied_store


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Run one command line in a process of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MAX_RETRIES", "2")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")

    def run(*argv: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "kelpie.cli", "data", *map(str, argv)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    return run


def told(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a user, last touched before this clock tick."""
    folder = tmp_path / "mine"
    files = {"a": b"1", "sub/ü b": os.urandom(100_000), "sub/empty": b"", "big": os.urandom(11 << 20)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return folder


def test_a_folder_goes_to_a_prefix_and_back(data: Data, store: Bucket, folder: Path, tmp_path: Path) -> None:
    place = f"s3://{store.name}/in here"
    put = told(data("put", folder, place, "--json"))
    assert (put["files"], put["unchanged"]) == (4, 0)
    assert store.contents() == {f"in here/{name}": content for name, content in tree(folder).items()}
    said = data("get", place, tmp_path / "back")
    assert said.stdout.startswith("4 files fetched, 11.1 MiB in ")
    assert tree(tmp_path / "back") == tree(folder)
    assert (tmp_path / "back" / "a").stat().st_mtime == 1_600_000_000
    listed = json.loads(data("ls", place + "/s", "--json").stdout)
    assert [each["key"] for each in listed] == ["in here/sub/empty", "in here/sub/ü b"]
    assert "in here/big" in data("ls", place).stdout
    short = data("ls", place, "--limit", 1)
    assert len(short.stdout.splitlines()) == 1
    assert "more than 1" in short.stderr


def test_a_listing_is_printed_as_it_comes_and_one_that_breaks_off_is_no_json(
    data: Data, store: Bucket, proxy: FaultProxy
) -> None:
    page = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>true</IsTruncated>
      <NextContinuationToken>more</NextContinuationToken><Contents><Key>first</Key><Size>1</Size>
      <ETag>"0"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"""
    proxy.rule = lambda request: (
        error(403, "AccessDenied") if "continuation-token" in request.path else Answer(200, page)
    )
    broken = data("ls", f"s3://{store.name}", "--json")
    assert (broken.returncode, "AccessDenied" in broken.stderr) == (1, True)
    assert json.loads(broken.stdout + "]")[0]["key"] == "first"
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(broken.stdout)


def test_one_file_goes_under_a_folder_or_as_a_key(data: Data, store: Bucket, folder: Path) -> None:
    for place in ("models/", "as this", ""):
        told(data("put", folder / "a", f"s3://{store.name}/{place}", "--json"))
    assert store.contents() == {"models/a": b"1", "as this": b"1", "a": b"1"}


def test_one_object_comes_back_as_a_file_of_its_name(
    data: Data, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    place = f"s3://{store.name}/models/"
    told(data("put", folder / "a", place, "--json"))
    told(data("put", folder / "a", place, "--compression", "--json"))
    refused = data("put", folder / "a", f"{place}b", "--compression")
    assert (refused.returncode, "ends in .gz" in refused.stderr) == (1, True)
    assert store.names() == {"models/a", "models/a.gz"}
    for number, argv in enumerate(([f"{place}a"], [f"{place}a.gz", "--compression"])):
        assert told(data("get", *argv, tmp_path / f"{number}", "--json"))["files"] == 1
        assert tree(tmp_path / f"{number}") == {"a": b"1"}


def test_a_pattern_and_compression_are_those_of_jobs(
    data: Data, store: Bucket, folder: Path, tmp_path: Path
) -> None:
    place = f"s3://{store.name}/p"
    assert told(data("put", folder, place, "--pattern", "^sub/", "--compression", "--json"))["files"] == 2
    assert store.names() == {"p/sub/ü b.gz", "p/sub/empty.gz"}
    told(data("get", place, tmp_path / "back", "--compression", "--json"))
    assert tree(tmp_path / "back") == {name: body for name, body in tree(folder).items() if "sub" in name}


def test_what_has_changed_on_neither_side_is_not_moved_again(
    data: Data, store: Bucket, folder: Path, tmp_path: Path, proxy: FaultProxy
) -> None:
    place, back = f"s3://{store.name}/p", tmp_path / "back"

    def moved() -> list[int]:
        both = (("put", folder, place), ("get", place, back))
        return [told(data(*each, "--json"))["files"] for each in both]

    assert moved() == [4, 4]
    proxy.requests.clear()
    assert moved() == [0, 0]
    assert all("list-type=2" in request.path for request in proxy.requests)
    (folder / "a").write_bytes(b"2")  # of the same size
    os.utime(folder / "a", (1_600_000_001, 1_600_000_001))
    assert moved() == [1, 1]
    (back / "sub/ü b").write_bytes(b"x" * 100_000)
    store.put("p/sub/empty", b"not any more")
    assert moved() == [1, 1]  # the user's file is what counts on the way up …
    assert tree(back) == tree(folder)  # … and the object on the way down
    (back / "big").unlink()
    assert moved() == [0, 1]
    assert told(data("put", "--all", folder, place, "--json"))["files"] == 4


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text(path.read_text().replace('"p/"', '"q/"')),
        lambda path: path.write_text(path.read_text().replace("[", "[0, ")),
        lambda path: path.chmod(0o666),
    ],
    ids=["torn", "another prefix", "other entries", "writable by others"],
)
def test_a_damaged_memory_of_the_last_copy_counts_as_none(
    data: Data, store: Bucket, folder: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    (folder / "big").unlink()
    place = f"s3://{store.name}/p"
    told(data("put", folder, place, "--json"))
    (known,) = (tmp_path / "cache").rglob("*.json")
    assert known.stat().st_mode & 0o777 == 0o600
    harm(known)
    store.client.delete_object(Bucket=store.name, Key="p/a")
    again = data("put", folder, place, "--json")
    assert told(again)["files"] == 3
    assert again.stderr == ""
    assert store.contents() == {f"p/{name}": content for name, content in tree(folder).items()}
    assert list(folder.rglob(".*")) == []


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (("put", "/nowhere", "s3://b/p"), 2, "does not exist"),
        (("put", "/tmp", "b/p"), 2, "write s3://bucket/prefix"),
        (("get", "s3:///p", "x"), 2, "write s3://bucket/prefix"),
        (("get", "s3://b/p", "x", "--pattern", "("), 2, "pattern"),
        (("ls", "s3://no-such-bucket-here/"), 1, "NoSuchBucket"),
        (("get", "s3://{}/misspelt", "x"), 1, "there is nothing at"),
    ],
)
def test_what_is_wrong_is_said(
    data: Data,
    store: Bucket,
    argv: tuple[str, ...],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = data(*(word.format(store.name) for word in argv))
    assert run.returncode == code
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_a_key_that_leads_out_of_the_folder_and_a_symlink_that_does_are_refused(
    data: Data, store: Bucket, folder: Path, tmp_path: Path, proxy: FaultProxy
) -> None:
    listing = b"""<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>
      <Contents><Key>p/../../evil</Key><Size>1</Size><ETag>"0"</ETag>
      <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>"""
    proxy.rule = lambda request: Answer(200, listing) if "list-type=2" in request.path else None
    refused = data("get", f"s3://{store.name}/p", tmp_path / "back")
    assert (refused.returncode, "p/../../evil" in refused.stderr) == (1, True)
    (folder / "way").symlink_to("/etc/passwd")
    refused = data("put", folder, f"s3://{store.name}/p")
    assert (refused.returncode, "leads out of its folder" in refused.stderr) == (1, True)


@pytest.mark.parametrize(("what", "matches"), [("put", is_put), ("get", is_fetch)])
def test_a_copy_that_fails_names_the_object_and_the_next_one_goes_on(
    data: Data,
    store: Bucket,
    folder: Path,
    tmp_path: Path,
    proxy: FaultProxy,
    what: str,
    matches: Callable[[Request], bool],
) -> None:
    (folder / "big").unlink()
    place, back = f"s3://{store.name}/p", tmp_path / "back"
    if what == "get":
        told(data("put", folder, place, "--json"))
    argv = ("put", folder, place) if what == "put" else ("get", place, back)
    denied = error(403, "AccessDenied")
    proxy.rule = lambda request: denied if matches(request) and "empty" in request.path else None
    run = data(*argv)
    assert run.returncode == 1
    assert "p/sub/empty" in run.stderr
    assert "AccessDenied" in run.stderr
    proxy.rule = lambda request: None
    assert told(data(*argv, "--json"))["files"] >= 1
    assert store.contents() == {f"p/{name}": content for name, content in tree(folder).items()}
    assert what == "put" or tree(back) == tree(folder)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_is_stopped_leaves_no_part_of_an_upload(
    data: Data, store: Bucket, folder: Path, proxy: FaultProxy, stop: signal.Signals
) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> None:
        if is_part(request):
            arrived.set()
            go_on.wait(20)

    proxy.rule = rule
    # A suite that runs in the background ignores this signal, and its children do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    argv = [sys.executable, "-m", "kelpie.cli", "data", "put", str(folder), f"s3://{store.name}/p"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert arrived.wait(20)
        process.send_signal(stop)
        threading.Timer(1.0, go_on.set).start()  # when the signal has certainly been heard
        assert process.wait(20) == 130
    wait_until(lambda: store.multipart_uploads() == [], "the upload was aborted")
    assert "p/big" not in store.names()


def test_boto3_is_not_loaded_when_the_environment_says_everything(
    data: Data, store: Bucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KELPIE_SYNC_TRANSPORT", raising=False)  # whatever the others are run over
    script = (
        "import sys; from kelpie.cli import main\n"
        "_, folder, place, back = sys.argv\n"
        "for argv in (['put', folder, place], ['get', place, back], ['ls', place]):\n"
        "    try: main(['data', *argv])\n"
        "    except SystemExit as end: assert not end.code\n"
        "heavy = 'boto3 botocore watchdog redis pydantic rich.progress'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    argv = [sys.executable, "-c", script, str(folder), f"s3://{store.name}/p", str(tmp_path / "back")]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
