"""What the watcher loses, tears and delays, against the real S3 server.

Run: ``python -m tests.bench.watch [--quick] [SCENARIO ...]``. Each scenario is one job whose ``during``
folder is filled in its own way while a worker's engine, in a process of its own with the default settings,
watches it.

* *over*: from the close (or rename) of a file to the start of its upload, in ms: what watching adds to the
  upload itself. Goal: a median of at most 10 ms; design limit: 100 ms;
* *lost*: files whose last version is not in the bucket when the job has drained, compared byte by byte;
* *early*: files that were only found at the end, when the command had exited, though there was time before;
* *torn*: looks at the bucket meanwhile that saw an object which no complete version of its file equals.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelpie.embedded.s3 import S3Server
from tests.bench.figures import load, percentile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

GOAL_OVER_MS = 10
IDLE_S = 20.0
MIB = 1 << 20


@dataclass
class Scene:
    """What one scenario wrote, and when each file was complete."""

    root: Path
    outside: Path  # on the same file system, not watched
    rounds: int
    storm: int
    closed: dict[str, float] = field(default_factory=dict)  # name → monotonic s of its last close
    versions: dict[str, set[bytes]] = field(default_factory=dict)  # complete ones, where torn is looked for
    notes: list[str] = field(default_factory=list)
    ask: Callable[[str], dict[str, Any]] = lambda word: {}  # the watching process

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        with path.open("wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view[: 8 * MIB]) :]
        self.closed[name] = time.monotonic()


def close(scene: Scene) -> None:
    """Files are written and closed one after another."""
    for number in range(scene.rounds):
        scene.write(f"f{number}", os.urandom(16 << 10))
        time.sleep(0.05)


def rename(scene: Scene) -> None:
    """Files are written elsewhere and renamed into place: inside the folder, and from outside it."""
    for number in range(scene.rounds):
        name = f"r{number}"
        draft = (scene.root / f"tmp-{name}") if number % 2 else (scene.outside / name)
        draft.write_bytes(os.urandom(16 << 10))
        if number % 2:
            time.sleep(0.05)
        draft.rename(scene.root / name)
        scene.closed[name] = time.monotonic()
        time.sleep(0.05)


def new_folder(scene: Scene) -> None:
    """A folder with a folder in it is made and filled at once, as trainers write checkpoints."""
    for number in range(scene.rounds):
        (scene.root / f"checkpoint-{number}" / "opt").mkdir(parents=True)
        for name in ("s0", "s1", "s2", "s3", "opt/x"):
            scene.write(f"checkpoint-{number}/{name}", os.urandom(4 << 10))
        time.sleep(0.05)


def folder_renamed_in(scene: Scene) -> None:
    """A filled folder is renamed into place."""
    for number in range(scene.rounds):
        built = scene.outside / f"ck{number}"
        built.mkdir()
        for file in range(4):
            (built / f"s{file}").write_bytes(os.urandom(4 << 10))
        built.rename(scene.root / f"ck{number}")
        now = time.monotonic()
        scene.closed |= {f"ck{number}/s{file}": now for file in range(4)}
        time.sleep(0.05)


def nested(scene: Scene) -> None:
    """Folders in folders, eight deep, each with a file, as fast as they can be made."""
    for number in range(scene.rounds):
        name = f"n{number}"
        for depth in range(8):
            name += f"/d{depth}"
            (scene.root / name).mkdir(parents=True)
            scene.write(f"{name}/f", b"%d %d" % (number, depth))
        time.sleep(0.15)


def moved_away(scene: Scene) -> None:
    """A file is moved out of the folder right before another is closed."""
    for number in range(scene.rounds):
        away = scene.root / f"away{number}"
        away.write_bytes(b"a")
        time.sleep(0.05)
        away.rename(scene.outside / f"away{number}")
        scene.write(f"m{number}", b"m")
        time.sleep(0.05)


def rewrite(scene: Scene) -> None:
    """A checkpoint of 40 MB is rewritten in place again and again, whatever its upload is at."""
    contents = [bytes([65 + number]) * (40_000_000 + number) for number in range(6)]
    scene.versions["ck"] = set(contents)
    for content in contents:
        scene.write("ck", content)
        time.sleep(random.uniform(0.0, 0.5))


def paused_writer(scene: Scene) -> None:
    """A writer pauses twice for 0.6 s, in the middle of a file that it keeps open."""
    for number in range(3):
        content = os.urandom(3 * 5_000_000)
        scene.versions[f"big{number}"] = {content}
        with (scene.root / f"big{number}").open("wb", buffering=0) as file:
            for part in range(3):
                file.write(content[part * 5_000_000 : (part + 1) * 5_000_000])
                time.sleep(0.6)
        scene.closed[f"big{number}"] = time.monotonic()


def storm(scene: Scene) -> None:
    """Thousands of small files in folders of a hundred, as fast as they can be written."""
    began = time.monotonic()
    for number in range(scene.storm):
        if number % 100 == 0:
            (scene.root / f"d{number // 100}").mkdir()
        scene.write(f"d{number // 100}/f{number}", b"%d" % number * 500)
    scene.notes.append(f"{scene.storm} files in {time.monotonic() - began:.1f} s")


def rewritten_storm(scene: Scene) -> None:
    """As many files, each third of them rewritten several times while others are uploaded."""
    chance = random.Random(1)
    began = time.monotonic()
    for number in range(scene.storm):
        if number % 100 == 0:
            (scene.root / f"d{number // 100}").mkdir()
        scene.write(f"d{number // 100}/f{number}", b"first %d" % number)
        if number % 3 == 0:
            for version in range(chance.randrange(1, 4)):
                old = chance.randrange(number + 1)
                scene.write(f"d{old // 100}/f{old}", b"%d of %d, written later" % (version, old))
    scene.notes.append(f"{scene.storm} files in {time.monotonic() - began:.1f} s")


def idle(scene: Scene) -> None:
    """Ten thousand files lie there and nothing happens."""
    for number in range(10_000):
        if number % 100 == 0:
            (scene.root / f"d{number // 100}").mkdir()
        (scene.root / f"d{number // 100}" / f"f{number}").write_bytes(b"%d" % number)
    deadline = time.monotonic() + 300
    while scene.ask("cpu")["uploads"] < 10_000 and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(1.0)
    before = scene.ask("cpu")["cpu_s"]
    time.sleep(IDLE_S)
    share = (scene.ask("cpu")["cpu_s"] - before) / IDLE_S
    scene.notes.append(f"idle: {100 * share:.2f} % of one core over {IDLE_S:.0f} s")


SCENARIOS = {
    each.__name__.replace("_", "-"): each
    for each in (
        close,
        rename,
        new_folder,
        folder_renamed_in,
        nested,
        moved_away,
        rewrite,
        paused_writer,
        storm,
        rewritten_storm,
        idle,
    )
}


STORMS = {"storm", "rewritten-storm", "idle"}


@contextmanager
def looking(client: S3Client, bucket: str, scene: Scene) -> Iterator[list[str]]:
    """Reads the objects whose versions are known, over and over; lists those that equal none."""
    torn: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for name, versions in list(scene.versions.items()):
                try:
                    body = client.get_object(Bucket=bucket, Key=name)["Body"].read()
                except client.exceptions.NoSuchKey:
                    continue
                if body not in versions:
                    torn.append(name)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield torn
    finally:
        done.set()
        thread.join()


def lost(client: S3Client, bucket: str, root: Path) -> int:
    """How many files are not in the bucket as they are on disk."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    there = {each["Key"] for page in pages for each in page.get("Contents", ())}
    files = [path for path in root.rglob("*") if path.is_file()]

    def same(path: Path) -> bool:
        key = str(path.relative_to(root))
        return key in there and client.get_object(Bucket=bucket, Key=key)["Body"].read() == path.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        return sum(not each for each in pool.map(same, files))


def run(name: str, server: S3Server, home: Path, rounds: int, storm_size: int, debounce_ms: int) -> bool:
    """One scenario, from an empty folder to a compared bucket; prints a line; whether nothing was lost."""
    client = server.client()
    bucket = f"watch-{name}-{os.getpid()}"
    server.ensure_bucket(bucket)
    scene = Scene(home / name / "watched", home / name / "outside", rounds, storm_size)
    scene.root.mkdir(parents=True)
    scene.outside.mkdir()
    (home / name / "temp").mkdir()
    watching = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.bench.watched"),
            *(str(scene.root), bucket, str(home / name / "temp"), str(debounce_ms)),
        ],
        env=os.environ | server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdin is not None
    assert watching.stdout is not None

    def ask(word: str) -> dict[str, Any]:
        assert watching.stdin is not None
        assert watching.stdout is not None
        print(word, file=watching.stdin, flush=True)
        answer: dict[str, Any] = json.loads(watching.stdout.readline())
        return answer

    try:
        json.loads(watching.stdout.readline())
        scene.ask = ask
        with looking(client, bucket, scene) as torn:
            SCENARIOS[name](scene)
            drained = time.monotonic()
            if name not in STORMS:
                time.sleep(1.5)  # what is found by then was found while the command ran
                drained = time.monotonic()
            end = ask("drain")
            took_s = time.monotonic() - drained
    finally:
        watching.stdin.close()
        watching.wait(60)
    missing = lost(client, bucket, scene.root)
    print(report(name, scene, end, missing, len(torn), drained, took_s), flush=True)
    shutil.rmtree(home / name)
    return not missing and not torn


def report(
    name: str, scene: Scene, end: dict[str, Any], missing: int, torn: int, drained: float, took_s: float
) -> str:
    """One line about one scenario."""
    first: dict[str, float] = {}
    uploads = sorted((begun, os.path.relpath(path, scene.root)) for path, begun, _ in end["uploads"])
    for begun, path in uploads:
        if begun >= scene.closed.get(path, float("inf")):
            first.setdefault(path, begun)
    over = [1000 * (begun - scene.closed[path]) for path, begun in first.items() if begun < drained]
    texts = [f"lost {missing}", f"torn {torn}"]
    if over and name not in STORMS:  # there they wait for those before them
        texts.append(f"over: median {statistics.median(over):.1f} ms, p99 {percentile(over, 0.99):.1f} ms")
        texts.append(f"found early {len(over)}/{len(scene.closed)}")
    texts += [
        f"{len(uploads)} uploads",
        f"drained in {took_s:.1f} s",
        f"CPU {end['cpu_s']:.1f} s",
        f"peak {end['peak_mib']:.0f} MiB",
    ]
    return f"{name:18s} {'; '.join([*texts, *scene.notes])}"


def main() -> int:
    """Run the scenarios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=20, help="of the scenarios that have some")
    parser.add_argument("--storm", type=int, default=30_000, help="files of a storm")
    parser.add_argument("--debounce-ms", type=int, default=1000, help="FILE_WATCHER_DEBOUNCE_MS")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether it runs")
    arguments = parser.parse_args()
    chosen = arguments.scenarios or list(SCENARIOS)
    if unknown := set(chosen) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if arguments.quick:
        arguments.rounds, arguments.storm = 3, 500
        chosen = [name for name in chosen if name != "idle"]
    print(f"== watch: what watching adds to an upload (goal: {GOAL_OVER_MS} ms), load {load()}", flush=True)
    right = True
    with tempfile.TemporaryDirectory(prefix="kelpie-bench-") as home, S3Server(Path(home) / "s3") as server:
        for name in chosen:
            right &= run(name, server, Path(home), arguments.rounds, arguments.storm, arguments.debounce_ms)
    print(f"   load afterwards {load()}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
