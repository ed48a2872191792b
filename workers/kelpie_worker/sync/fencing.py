"""Writes that cannot be late: each goes on the condition that the object is what this attempt last saw.

A worker that was paused or cut off may have a request under way when its lease goes to another node. The
store compares what that request expects with what is there when it arrives: an object that the next attempt
has stored meanwhile is not replaced. When a condition fails, the object's metadata say whose it is: a later
attempt at the same job fences this one off; anything else (an earlier attempt, another job, another program)
is replaced as without conditions: of different jobs the last writer wins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from kelpie_worker.sync.conditions import Condition, Conditions
from kelpie_worker.sync.errors import Fenced, NotSupported, ObjectChanged, SyncError
from kelpie_worker.sync.gate import Gate
from kelpie_worker.sync.remote import RemoteHead
from kelpie_worker.sync.store import Store

log = structlog.get_logger(__name__)

MAX_REPLACEMENTS = 10
"""How often others may replace an object between two tries of one write."""
MAX_UNSEEN = 3
"""How often in a row a store may refuse a new object for one that it does not show.

A store that keeps keys as a file system takes a folder, even an empty one, for an object in the way of a
condition, though not of a write (SeaweedFS 3). Anybody's real object would show at one of these looks.
"""
MAX_PROBE_BYTES = 1 << 20
"""The largest object that is sent twice to find out what its store does with conditions."""
_MAX_ATTEMPT_DIGITS = 9


class Fence:
    """The conditional writes of one attempt. Safe from any thread.

    ``send(condition)`` makes the request, and raises ObjectChanged when the condition fails.
    """

    def __init__(
        self, store: Store, gate: Gate, conditions: Conditions, *, job_id: str, attempt: int
    ) -> None:
        self._store = store
        self._gate = gate
        self._conditions = conditions
        self._job_id = job_id
        self._attempt = attempt
        self._lock = threading.Lock()
        self._etags: dict[tuple[str, str], str] = {}  # of the objects as this attempt last saw them
        self._crowded: set[str] = set()  # buckets where objects were found that this attempt did not know

    def admit(self, bucket: str, key: str, head: RemoteHead) -> None:
        """The object was fetched, and the next write expects it. Fenced when it is a later attempt's."""
        self._refuse_later(bucket, key, head)
        with self._lock:
            self._etags[bucket, key] = head.etag

    def write(
        self,
        bucket: str,
        key: str,
        *,
        size: int,
        metadata: Mapping[str, str],
        send: Callable[[Condition | None], str],
        repeatable: bool = False,
    ) -> str:
        """Store an object of ``size`` bytes; its ETag.

        ``repeatable``: ``send`` may be called again after it succeeded. Raises Fenced, and closes the gate,
        when a later attempt at this job has stored the object; SyncError, CanceledTransfer.
        """
        unseen = 0
        for _ in range(MAX_REPLACEMENTS):
            # The last look found nothing there, and what sends asks the lease first: as without conditions.
            condition = self._condition(bucket, key) if unseen < MAX_UNSEEN else None
            try:
                etag = send(condition)
            except ObjectChanged:
                self._conditions.keeps(bucket)
                self._gate.confirm()  # a lease that ran out meanwhile is the plainer reason
                there = self._look(bucket, key)
                unseen = unseen + 1 if there is None and condition == Condition(None) else 0
                if there is None or there.size != size or there.metadata != metadata:
                    continue
                etag = there.etag  # ours: the answer to an earlier try was lost
            except NotSupported as error:
                if condition is None:
                    raise
                self._conditions.lacks(bucket, str(error))
                continue
            else:
                if condition is not None and repeatable and size <= MAX_PROBE_BYTES:
                    etag = self._probe(bucket, send) or etag
            with self._lock:
                self._etags[bucket, key] = etag
            return etag
        raise SyncError(
            f"upload s3://{bucket}/{key}: others replaced the object {MAX_REPLACEMENTS} times meanwhile"
        )

    def delete(self, bucket: str, key: str) -> None:
        """Delete the object if this attempt stored or fetched it, or an earlier attempt at the job did.

        What anybody else has stored there meanwhile stays. Fenced, SyncError, CanceledTransfer.
        """
        for _ in range(MAX_REPLACEMENTS):
            condition = self._condition(bucket, key)
            if condition is not None and condition.etag is None:
                return  # it is gone already
            try:
                self._store.delete(bucket, key, condition)
            except ObjectChanged:
                self._conditions.keeps(bucket)
                self._gate.confirm()  # a lease that ran out meanwhile is the plainer reason
                there = self._look(bucket, key)
                if there is not None and there.metadata.get("kelpie-job") != self._job_id:
                    log.warning(
                        "another job has replaced the object: it is not deleted", bucket=bucket, key=key
                    )
                    there = None
                if there is None:
                    return
            except NotSupported as error:
                if condition is None:
                    raise
                self._conditions.lacks(bucket, str(error))
            else:
                with self._lock:
                    self._etags.pop((bucket, key), None)
                return
        raise SyncError(
            f"delete s3://{bucket}/{key}: others replaced the object {MAX_REPLACEMENTS} times meanwhile"
        )

    def _condition(self, bucket: str, key: str) -> Condition | None:
        if not self._conditions.wanted(bucket):
            return None
        etag = self._etags.get((bucket, key))
        if etag is None and bucket in self._crowded:
            # Where one unknown object was in the way the next may be: a look is cheaper than a body in vain.
            there = self._look(bucket, key)
            etag = None if there is None else there.etag
        return Condition(etag)

    def _look(self, bucket: str, key: str) -> RemoteHead | None:
        """What is there now, which the next write expects. Fenced when it is a later attempt's."""
        there = self._store.find(bucket, key)
        if there is not None:
            self._refuse_later(bucket, key, there)
        with self._lock:
            if there is None:
                self._etags.pop((bucket, key), None)
                self._crowded.discard(bucket)
            else:
                self._etags[bucket, key] = there.etag
                self._crowded.add(bucket)
        return there

    def _refuse_later(self, bucket: str, key: str, there: RemoteHead) -> None:
        attempt = there.metadata.get("kelpie-attempt", "")
        if (
            there.metadata.get("kelpie-job") == self._job_id
            and attempt.isdecimal()
            and len(attempt) <= _MAX_ATTEMPT_DIGITS
            and int(attempt) > self._attempt
        ):
            why = (
                f"s3://{bucket}/{key} was stored by attempt {attempt} of this job:"
                f" attempt {self._attempt} must not write any more"
            )
            self._gate.fence(why)
            raise Fenced(why)

    def _probe(self, bucket: str, send: Callable[[Condition | None], str]) -> str | None:
        """Send once more, now that the object exists, what was stored on the condition that it does not.

        The ETag that the object has now, when the store wrote it again.
        """
        if not self._conditions.claim_probe(bucket):
            return None
        try:
            etag = send(Condition(None))
        except ObjectChanged:
            self._conditions.keeps(bucket)
        except SyncError as error:  # the object is stored: this is no failure of its upload
            log.info("whether this storage has conditional writes was not found out", error=str(error))
        else:
            self._conditions.lacks(bucket, "it writes whatever the condition says")
            return etag
        return None
