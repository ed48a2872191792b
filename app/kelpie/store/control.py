"""What owners do to their jobs: cancel, hold, resume, requeue, unban, prioritize, delete."""

from __future__ import annotations

from kelpie.errors import ConflictError
from kelpie.job import TERMINAL, Job
from kelpie.store.access import no_such_job
from kelpie.store.codec import MAX_PRIORITY
from kelpie.store.connection import translated
from kelpie.store.jobs import Jobs
from kelpie.store.names import checked, within
from kelpie.store.records import Queue
from kelpie.store.registry import Place
from kelpie.store.scripts import Argument

CLEAR_LIMIT = 100  # jobs that one script call deletes or cancels, at most


class Control(Jobs):
    """The owners' side of the store. Every method raises NotFoundError for a job that is not the user's."""

    def cancel(self, job_id: str, *, user_id: str | None = None) -> Job:
        """Ends a live job at once; its holder learns at its next heartbeat. Canceling again is harmless.

        Raises ConflictError for a completed or failed job.
        """
        return self._change("cancel", "canceled", job_id, user_id)

    def hold(self, job_id: str, *, user_id: str | None = None) -> Job:
        """Keeps a live job from being leased until it is resumed; a node that runs it goes on.

        Raises ConflictError for a job that has ended.
        """
        return self._change("hold", "held", job_id, user_id)

    def resume(self, job_id: str, *, user_id: str | None = None) -> Job:
        """Lets a held job be leased again. Raises ConflictError for a job that has ended."""
        return self._change("resume", "resumed", job_id, user_id)

    def requeue(self, job_id: str, *, user_id: str | None = None) -> Job:
        """Opens a failed or canceled job again, without its failures and bans; ends a delayed one's pause.

        Raises ConflictError for a completed job.
        """
        return self._change("requeue", "requeued", job_id, user_id)

    def unban(self, job_id: str, *, node: str | None = None, user_id: str | None = None) -> Job:
        """Lets a node (None: every node) have a job again on which it failed.

        Raises ConflictError for a job that has ended.
        """
        if node is not None:
            checked("machine_id", node)
        return self._change("unban", "unbanned", job_id, user_id, node=node or "")

    def prioritize(self, job_id: str, priority: int, *, user_id: str | None = None) -> Job:
        """Gives a live job another priority (0…255, higher first); one that a node runs keeps it for later.

        Raises ConflictError for a job that has ended, InvalidInputError for another number.
        """
        within("priority", priority, 0, MAX_PRIORITY)
        return self._change("prioritize", "prioritized", job_id, user_id, priority=priority)

    def _change(self, script: str, done: str, job_id: str, user_id: str | None, **arguments: Argument) -> Job:
        place = self._place_of(job_id, user_id)
        try:
            self._about(script, place, job_id, **arguments)
        except ConflictError as error:
            raise ConflictError(f"Job {job_id} cannot be {done}. {error}") from None
        return self.get(job_id)

    def purge(self, job_id: str, *, user_id: str | None = None) -> None:
        """Deletes a job and its records for good."""
        place = self._place_of(job_id, user_id)
        with translated():
            if not self.redis.exists(place.keys.job(job_id)):
                raise no_such_job(job_id)
        self._run("purge", place, id=job_id)

    def clear_group(self, user_id: str, container_group_id: str) -> int:
        """Purges the pending jobs of a queue and cancels its running ones; returns how many these were."""
        place = self._registry.find(user_id, container_group_id)
        return 0 if place is None else self._repeat("clear", place)

    def purge_all(self) -> None:
        """Deletes every job of every user for good."""
        for place in self._registry.all(None):
            self._repeat("purge_queue", place)

    def expire(self, queue: Queue, before: int, *, enough: int | None = None) -> int:
        """Deletes the jobs of a queue that ended before a time (ms) for good; returns how many these were.

        It stops once ``enough`` (None: all) are gone, or a few more; the next call finds the others.
        """
        place = self._registry.numbered(queue.number)
        if place is None:
            return 0
        gone = 0
        for status in sorted(TERMINAL):
            after = "0"
            while after and (enough is None or gone < enough):
                count, last = self._run(
                    "expire", place, status=str(status), before=before, after=after, limit=CLEAR_LIMIT
                )
                gone, after = gone + int(count), last.decode()
        return gone

    def last_seen(self, queue: Queue) -> int | None:
        """The server's time (ms) when a script last ran on a queue; None when none has."""
        place = self._registry.numbered(queue.number)
        if place is None:
            return None
        with translated():
            wall = self.redis.hget(place.keys.meta, "wall")
        return None if wall is None else int(wall)

    def _repeat(self, script: str, place: Place) -> int:
        with translated():
            last = self.redis.hget(place.keys.meta, "order")
        total = 0
        while last is not None:
            count = self._run(script, place, last=last, limit=CLEAR_LIMIT)
            if not count:
                break
            total += count
        return total
