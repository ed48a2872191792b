"""What ``--wait`` says on stderr while it waits: how the job stands, whenever that changes."""

from __future__ import annotations

import re
from contextlib import suppress

import click

from kelpie.cli.output import safe
from kelpie.client import Client, Job
from kelpie.errors import UnavailableError
from kelpie.job import Attempt


def wait_for(client: Client, job_id: str) -> Job:
    """The job when it has ended. Says on stderr how it stands, in a line per change, and why it failed."""
    told = _Told(client)
    ended = client.wait(job_id, seen=told.stands)
    told.failed(ended)
    return ended


class _Told:
    """What has been said of one job."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._failures = 0
        self._standing = ""

    def stands(self, job: Job) -> None:
        self.failed(job)
        words = _standing(job)
        gist = re.sub(r": \d+$|\d+ jobs run", "", words)  # not a line for each job before it that is done
        if gist != self._standing:
            self._standing = gist
            _say(job, words)

    def failed(self, job: Job) -> None:
        if job.num_failures > self._failures:
            self._failures = job.num_failures
            _say(job, f"failed {job.num_failures} of {job.spec.max_failures} times{_why(self._client, job)}")


def _standing(job: Job) -> str:
    if job.waiting_for:
        return f"{job.status}: {job.waiting_for}"
    return f"{job.status} on {job.machine_id}, attempt {job.attempt}"


def _why(client: Client, job: Job) -> str:
    """Of its last failure; nothing when that was reported by hand, or nobody can say it now."""
    failed: list[Attempt] = []
    with suppress(UnavailableError):
        failed = [attempt for attempt in client.attempts(job.id) if attempt.reason is not None]
    return f": attempt {failed[-1].attempt} on {failed[-1].node}, {failed[-1].reason}" if failed else ""


def _say(job: Job, words: str) -> None:
    click.echo(safe(f"{job.id} {words}"), err=True)
