"""Jobs with `compression`: objects are gzip files, and no object can fill a disk."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from kelpie.job import Sync
from kelpie_worker.sync import SyncError
from tests.unit.sync.conftest import PART, Bucket, Engines, down, tree, up


def test_what_goes_up_compressed_comes_down_as_it_was(engines: Engines, store: Bucket, folder: Path) -> None:
    files = {"zeros": bytes(30 << 20), "noise": os.urandom(2 * PART + 1), "empty": b"", "sub/t.gz": b"text"}
    job = engines.job(
        Sync(during=(up(store.name, "ck/", folder),), after=(up(store.name, "out/", folder),)),
        compression=True,
    )
    job.watch()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    job.drain()
    job.stage()
    job.finalize()
    job.clean()
    assert store.names() == {f"{place}/{name}.gz" for place in ("ck", "out") for name in files}
    assert gzip.decompress(store.get("out/noise.gz")) == files["noise"]
    assert list(engines.temp_dir.iterdir()) == []
    store.put("ck/plain", b"never compressed")
    again = engines.job(
        Sync(before=(down(store.name, "ck/", folder),), during=(up(store.name, "ck/", folder),)),
        compression=True,
    )
    again.download()
    assert tree(folder) == files | {"plain": b"never compressed"}
    again.watch()
    (folder / "zeros").unlink()
    again.drain()
    assert store.names() & {"ck/zeros.gz", "ck/plain", "ck/empty.gz"} == {"ck/plain", "ck/empty.gz"}


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        (gzip.compress(bytes(100 << 20)), {}),
        (gzip.compress(bytes(1 << 20)), {"kelpie-size": "10"}),
        (gzip.compress(b"short"), {"kelpie-size": "500"}),
        (gzip.compress(b"cut off")[:-4], {}),
        (b"no gzip at all", {}),
    ],
    ids=["bomb", "larger-than-declared", "smaller-than-declared", "cut-short", "not-gzip"],
)
def test_a_bad_gzip_object_is_refused_by_name(
    engines: Engines, store: Bucket, folder: Path, data: bytes, metadata: dict[str, str]
) -> None:
    store.put("in/x.gz", data, Metadata=metadata)
    with pytest.raises(SyncError, match=r"in/x\.gz"):
        engines.job(Sync(before=(down(store.name, "in/", folder),)), compression=True).download()
    assert list(folder.rglob("*")) == []


def test_without_compression_a_gzip_object_stays_one(engines: Engines, store: Bucket, folder: Path) -> None:
    data = gzip.compress(b"text")
    store.put("in/x.gz", data)
    engines.job(Sync(before=(down(store.name, "in/", folder),))).download()
    assert tree(folder) == {"x.gz": data}


def test_files_that_vanish_while_they_are_compressed_harm_nothing(
    engines: Engines, store: Bucket, folder: Path
) -> None:
    job = engines.job(Sync(during=(up(store.name, "ck/", folder),)), compression=True)
    job.watch()
    for number in range(200):
        short_lived = folder / str(number)
        short_lived.write_bytes(os.urandom(100_000))
        short_lived.unlink()
    (folder / "last").write_bytes(b"stays")
    job.drain()
    assert gzip.decompress(store.get("ck/last.gz")) == b"stays"
    assert store.names() == {"ck/last.gz"}
    assert list(engines.temp_dir.iterdir()) == []
