"""What must hold after a run, looked at from the outside: the API's answers, the bucket, disks, processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.proof.faults.site import MARK, Site
from tests.proof.faults.work import NO_ROOM, Work

_OURS = frozenset({"kelpie-state.json", ".kelpie-folders.json"})
"""Files of a worker that may stay on its disk."""
_SIGKILLED = 137
_FAILURES = frozenset({"app_failed", "sync_failed"})


def audit(site: Site) -> list[str]:
    """Every violation, in words; of a site whose faults are over, whose jobs and workers have ended."""
    found = [*_complaints(site), *_processes(site), *_disks(site), *_uploads(site)]
    for job_id, work in site.works.items():
        found += [f"job {work.name} ({job_id}): {each}" for each in _job(site, job_id, work)]
    return found


def _complaints(site: Site) -> Iterator[str]:
    for machine in site.machines:
        yield from machine.complaints


def _processes(site: Site) -> Iterator[str]:
    for process in psutil.process_iter(["environ", "cmdline", "status"]):
        if (process.info["environ"] or {}).get(MARK) == site.mark:
            yield f"an orphan lives: {process.pid} {process.info['cmdline']} {process.info['status']}"


def _disks(site: Site) -> Iterator[str]:
    for machine in site.machines:
        folder = machine.disk.folder
        left = [each.relative_to(folder) for each in folder.rglob("*") if not each.is_dir()]
        if odd := [str(each) for each in left if str(each) not in _OURS]:
            yield f"{machine.id}: files are left: {sorted(odd)[:10]}"
        hidden = [each for each in folder.rglob(".kelpie-*") if each.is_dir()]
        temporary = list((folder / "tmp").iterdir())
        if hidden or temporary:
            yield f"{machine.id}: folders are left: {sorted(map(str, hidden + temporary))[:10]}"


def _uploads(site: Site) -> Iterator[str]:
    """But for those that no worker can end: of nodes that never came back, and those of which no answer ever
    told a node, which the network has delivered when everybody had given them up."""
    lost = lost_uploads(site)
    told = {each for machine in site.machines for each in machine.store.told_uploads}
    for upload in left_uploads(site):
        if upload["UploadId"] in told - lost:
            parts = site.servers.s3.client().list_parts(
                Bucket=site.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
            yield (
                f"a multipart upload is left: {upload['Key']} {upload['UploadId']}, of "
                f"{upload['Initiated']:%H:%M:%S}, with {len(parts.get('Parts', ()))} parts"
            )


def left_uploads(site: Site) -> list[dict[str, Any]]:
    """The multipart uploads that are in the bucket."""
    client = site.servers.s3.client()
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=site.bucket, Prefix=site.prefix)
    return [dict(each) for page in pages for each in page.get("Uploads", ())]


def lost_uploads(site: Site) -> set[str]:
    """Ids of the uploads that were under way when their node was lost with its disk."""
    return {each for machine in site.machines for each in machine.lost_uploads}


def _job(site: Site, job_id: str, work: Work) -> Iterator[str]:
    job = site.job(job_id)
    attempts: list[dict[str, Any]] = job["attempts"]
    outcomes = [each["outcome"] for each in attempts]
    wanted = "failed" if work.doomed else "completed"
    if job["status"] != wanted:
        yield f"it is {job['status']} rather than {wanted}: {job['waiting_for']} {outcomes[-5:]}"
    yield from _history(attempts)
    if outcomes.count("completed") != (0 if work.doomed else 1) or (
        "completed" in outcomes and outcomes[-1] != "completed"
    ):
        yield f"completed {outcomes.count('completed')} times: {outcomes}"
    failures = sum(each in _FAILURES for each in outcomes)
    if job["num_failures"] != failures:
        yield f"{job['num_failures']} failures are counted, {failures} are in its history"
    for attempt in attempts:
        if attempt["outcome"] in _FAILURES and not _explained(site, job_id, work, attempt):
            yield (
                f"attempt {attempt['attempt']} on {attempt['machine_id']} is {attempt['outcome']}, and "
                f"nothing of its own failed: {attempt['reason']} {attempt['stderr_tail']}"
            )
    yield from _told(site.events(job_id), attempts, wanted)
    if job["status"] == "completed":
        yield from _objects(site, work, attempts[-1]["attempt"])


def _history(attempts: list[dict[str, Any]]) -> Iterator[str]:
    numbers = [each["attempt"] for each in attempts]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its attempts are numbered {numbers}"
    for attempt in attempts:
        if not attempt["end"] or not attempt["outcome"] or attempt["end"] < attempt["start"]:
            yield f"attempt {attempt['attempt']} has no end: {attempt}"


def _explained(site: Site, job_id: str, work: Work, attempt: dict[str, Any]) -> bool:
    """Whether the application itself failed: it meant to, was shot, or found the disk full."""
    code, number = attempt["exit_code"], attempt["attempt"]
    if attempt["outcome"] != "app_failed":
        return False
    if code == work.failure_code and work.fail_at:
        return work.doomed or bool(number == 1)
    if code == _SIGKILLED and attempt["signal"] == 9:
        return any((job_id, number) in machine.killed_commands for machine in site.machines)
    return code == NO_ROOM and any(
        attempt["machine_id"] in machine.ids_with_full_disk for machine in site.machines
    )


def _told(events: list[dict[str, Any]], attempts: list[dict[str, Any]], wanted: str) -> Iterator[str]:
    """That every change of the job is an event, once, in its order."""
    types = [each["type"] for each in events]
    leased = [each["attempt"] for each in events if each["type"] == "running"]
    if leased != [each["attempt"] for each in attempts]:
        yield f"its events tell of the attempts {leased}, its history of {len(attempts)}"
    if types[:1] != ["submitted"] or types[-1:] != [wanted] or types.count(wanted) != 1:
        yield f"its events are {types}"
    for attempt in attempts:
        number, end = attempt["attempt"], attempt["outcome"]
        if wanted == "failed" and attempt is attempts[-1]:
            end = "failed"  # of the last failure the end of the job is told
        told = [each["type"] for each in events if each["attempt"] == number and each["type"] != "submitted"]
        # A lease that had expired may have been renewed late, or its report have been accepted late.
        between = [each for each in told[1:-1] if each not in {"interrupted", "revived"}]
        if told[:1] != ["running"] or told[-1:] != [end] or between:
            yield f"attempt {number} is {end}, its events tell of {told}"


def _objects(site: Site, work: Work, attempt: int) -> Iterator[str]:
    client = site.servers.s3.client()
    prefix = site.key(work, "")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=site.bucket, Prefix=prefix)
    keys = {each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", ())}
    wanted = work.outputs(attempt)
    for name in sorted(keys | wanted.keys()):
        if name not in keys:
            yield f"{name} is not in the bucket"
        elif name not in wanted:
            yield f"{name} is in the bucket, and should not be"
        else:
            data = client.get_object(Bucket=site.bucket, Key=prefix + name)["Body"].read()
            if data != wanted[name]:
                yield f"{name} holds {_brief(data)} rather than {_brief(wanted[name])}"


def _brief(data: bytes) -> str:
    return f"{data[:40]!r} ({len(data)} bytes)"


def logs(site: Site, directory: Path) -> None:
    """Keep what the workers said, for whoever looks into a violation."""
    directory.mkdir(parents=True, exist_ok=True)
    for log in sorted(site.machines[0].log.parent.glob("*.log")):
        (directory / log.name).write_bytes(log.read_bytes())
