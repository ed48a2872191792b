"""Those that Kelpie is held against: how each is called, and the Python ones themselves.

Each moves a folder under a prefix, or back, in a process of its own, with the settings that its own documents
advise or that made it fastest here. ``python -m tests.bench.sync.peers NAME put|get FOLDER BUCKET PREFIX``
runs one that is a library.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
PART = 10 * MIB
THREADS = 16

Argv = Callable[[str, str, str, str, Mapping[str, str]], list[str]]
"""(put or get, folder, bucket, prefix, environment) → the command line."""


@dataclass(frozen=True)
class Peer:
    """One of them."""

    name: str
    argv: Argv
    missing: str = ""  # what there is not on this machine
    environment: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda environ: {}


def kelpie(operation: str, folder: str, bucket: str, prefix: str, _: Mapping[str, str]) -> list[str]:
    """Our own command line."""
    place = f"s3://{bucket}/{prefix}"
    both = [folder, place] if operation == "put" else [place, folder]
    return [sys.executable, "-m", "kelpie.cli", "data", operation, "--all", "--json", *both]


def _library(name: str) -> Argv:
    def argv(operation: str, folder: str, bucket: str, prefix: str, _: Mapping[str, str]) -> list[str]:
        return [sys.executable, "-m", "tests.bench.sync.peers", name, operation, folder, bucket, prefix]

    return argv


def _s5cmd(operation: str, folder: str, bucket: str, prefix: str, environ: Mapping[str, str]) -> list[str]:
    place = f"s3://{bucket}/{prefix}"
    unverified = ["--no-verify-ssl"] if environ["AWS_ENDPOINT_URL_S3"].startswith("https") else []
    both = [f"{folder}/", place] if operation == "put" else [f"{place}*", f"{folder}/"]
    endpoint = environ["AWS_ENDPOINT_URL_S3"]
    return ["s5cmd", "--endpoint-url", endpoint, "--log", "error", *unverified, "cp", *both]


def _rclone(operation: str, folder: str, bucket: str, prefix: str, _: Mapping[str, str]) -> list[str]:
    both = [folder, f"s:{bucket}/{prefix}"] if operation == "put" else [f"s:{bucket}/{prefix}", folder]
    tuned = (
        "--transfers 16 --checkers 16 --s3-chunk-size 16M --s3-upload-cutoff 64M --s3-upload-concurrency 8"
    )
    more = "--fast-list --s3-no-head --s3-no-check-bucket --multi-thread-streams 8 --multi-thread-cutoff 64M"
    return ["rclone", "copy", "--no-check-certificate", *tuned.split(), *more.split(), *both]


def _rclone_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        "AWS_CA_BUNDLE": "",  # which it cannot obey, and refuses to start with
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_S_LIST_VERSION": "2",
        "RCLONE_CONFIG_S_TYPE": "s3",
        "RCLONE_CONFIG_S_PROVIDER": "Other",
        "RCLONE_CONFIG_S_ENV_AUTH": "true",
        "RCLONE_CONFIG_S_ENDPOINT": environ["AWS_ENDPOINT_URL_S3"],
        "RCLONE_CONFIG_S_REGION": environ["AWS_REGION"],
    }


def _aws(operation: str, folder: str, bucket: str, prefix: str, environ: Mapping[str, str]) -> list[str]:
    place = f"s3://{bucket}/{prefix}"
    both = [folder, place] if operation == "put" else [place, folder]
    endpoint = environ["AWS_ENDPOINT_URL_S3"]
    quiet = ["--recursive", "--only-show-errors", "--no-progress"]
    return ["aws", "--endpoint-url", endpoint, "s3", "cp", *quiet, *both]


def _program(name: str) -> str:
    # a shim that has nothing behind it is no program
    found = shutil.which(name)
    return "" if found and "shims" not in found else f"{name} is not on PATH"


def _module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"the Python package {name} is not installed"


def all_peers() -> list[Peer]:
    """Kelpie first."""
    return [
        Peer("kelpie", kelpie),
        Peer("obstore", _library("obstore"), _module("obstore")),
        Peer("s5cmd", _s5cmd, _program("s5cmd")),
        Peer("rclone", _rclone, _program("rclone"), _rclone_environment),
        Peer("aws", _aws, _program("aws")),
        Peer("boto3", _library("boto3"), _module("boto3")),
    ]


# ---- the libraries


def _files(folder: str) -> list[tuple[str, str]]:
    root = Path(folder)
    return [(str(path), str(path.relative_to(root))) for path in root.rglob("*") if path.is_file()]


def _target(folder: str, name: str) -> str:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def run_boto3(operation: str, folder: str, bucket: str, prefix: str) -> None:
    """One transfer manager with parts as ours: boto3 as its documents show it."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config
    from s3transfer.manager import TransferManager

    config: Config = Config(s3={"addressing_style": "path"}, max_pool_connections=THREADS)
    client = boto3.client("s3", config=config)
    settings = TransferConfig(
        max_concurrency=8,
        multipart_chunksize=PART,
        multipart_threshold=PART,
        preferred_transfer_client="classic",
    )
    with TransferManager(client, settings) as manager:
        if operation == "put":
            waited = [manager.upload(path, bucket, prefix + name) for path, name in _files(folder)]
        else:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            waited = [
                manager.download(bucket, each["Key"], _target(folder, each["Key"].removeprefix(prefix)))
                for page in pages
                for each in page.get("Contents", ())
            ]
        for each in waited:
            each.result()


def run_obstore(operation: str, folder: str, bucket: str, prefix: str) -> None:
    """Rust's object_store: calls from threads, large files in parts."""
    import obstore
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    options: dict[str, Any] = {"timeout": "600s"}
    options |= {"allow_http": True} if endpoint.startswith("http:") else {"allow_invalid_certificates": True}
    store = S3Store(
        bucket,
        endpoint=endpoint,
        region=os.environ["AWS_REGION"],
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        unsigned_payload=True,
        client_options=options,
    )

    def put(path: str, name: str) -> None:
        obstore.put(store, prefix + name, Path(path), chunk_size=PART, max_concurrency=8)

    def get(key: str) -> None:
        with open(_target(folder, key.removeprefix(prefix)), "wb", buffering=0) as file:  # noqa: PTH123
            file.write(bytes(obstore.get(store, key).bytes()))

    def get_part(key: str, descriptor: int, start: int, length: int) -> None:
        os.pwrite(descriptor, obstore.get_range(store, key, start=start, length=length), start)

    # 64 threads, as a store that is far away demands: they sleep in Rust
    with ThreadPoolExecutor(64) as pool:
        waited = []
        if operation == "put":
            waited = [pool.submit(put, path, name) for path, name in _files(folder)]
        else:
            for batch in obstore.list(store, prefix):
                for each in batch:
                    key, size = each["path"], each["size"]
                    if size <= PART:
                        waited.append(pool.submit(get, key))
                        continue
                    descriptor = os.open(_target(folder, key.removeprefix(prefix)), os.O_WRONLY | os.O_CREAT)
                    starts = range(0, size, PART)
                    waited += [
                        pool.submit(get_part, key, descriptor, start, min(PART, size - start))
                        for start in starts
                    ]
        for one in waited:
            one.result()


if __name__ == "__main__":
    {"boto3": run_boto3, "obstore": run_obstore}[sys.argv[1]](*sys.argv[2:])
