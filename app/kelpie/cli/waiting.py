"""What ``--wait`` says on stderr while it waits: how the job stands, whenever that changes."""

from __future__ import annotations

import re
from contextlib import suppress

import click

from kelpie.cli.output import safe
from kelpie.client import Client, Job
from kelpie.errors import KelpieError
from kelpie.job import FAILURES, Attempt, JobStatus

MAX_FAILURES_TOLD = 5
"""Of those that have come since the last look, the newest."""


def wait_for(client: Client, job_id: str, *, quiet: bool) -> Job:
    """The job when it has ended. Unless ``quiet``, stderr tells how it stands and which attempts failed.

    What is told decides nothing: it is left out where it cannot be read, or written.
    """
    if quiet:
        return client.wait(job_id)
    told = _Told(client)
    ended = client.wait(job_id, seen=told.stands)
    if ended.status is not JobStatus.COMPLETED:
        told.failures(ended)
    return ended


class _Told:
    """What has been said of one job."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._failures = 0
        self._attempt = 0  # the last one of those that were told to have failed
        self._standing = ""

    def stands(self, job: Job) -> None:
        self.failures(job)
        words = _standing(job)
        gist = re.sub(r": \d+$| \(.*", "", words)  # not a line for each job before it, or node, that goes
        if gist != self._standing:
            self._standing = gist
            _say(job, words)

    def failures(self, job: Job) -> None:
        if job.num_failures == self._failures:
            return
        with suppress(KelpieError):  # then it is told at the next look
            failed = [one for one in self._client.attempts(job.id) if one.outcome in FAILURES]
            news = [one for one in failed if one.attempt > self._attempt]
            for attempt in news[-MAX_FAILURES_TOLD:]:
                _say(job, _failure(attempt))
            if news:
                self._attempt = news[-1].attempt
            elif job.num_failures > self._failures:
                _say(job, "a failure was reported by hand")
            self._failures = job.num_failures


def _standing(job: Job) -> str:
    if job.waiting_for:
        return f"waits: {job.waiting_for}"
    if job.machine_id is None:
        return job.status
    return f"{job.status} on {job.machine_id}, attempt {job.attempt}"


def _failure(attempt: Attempt) -> str:
    why = f": {attempt.reason}" if attempt.reason else ""
    return f"failed on {attempt.node}, attempt {attempt.attempt}{why}"


def _say(job: Job, words: str) -> None:
    with suppress(OSError):  # nobody reads it, or the disk is full
        click.echo(safe(f"{job.id} {words}"), err=True)
