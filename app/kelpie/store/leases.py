"""Leases as nodes see them: take a job, keep it, say how it ended."""

from __future__ import annotations

import hashlib
import secrets

from kelpie.errors import InvalidInputError, LeaseLostError
from kelpie.job import (
    NOTHING_KNOWN,
    REPORTABLE,
    CommandEnd,
    FinishReply,
    HeartbeatReply,
    Holder,
    JobStatus,
    Lease,
    Outcome,
    UploadBacklog,
)
from kelpie.progress import ProgressReport
from kelpie.store import transfers as moves
from kelpie.store import uploads
from kelpie.store.access import job_of
from kelpie.store.codec import encode_details
from kelpie.store.connection import translated
from kelpie.store.drains import Drains
from kelpie.store.names import checked
from kelpie.store.records import Queue
from kelpie.store.scripts import Argument
from kelpie.store.told import DEFAULT_DAYS, Told, note
from kelpie.transfers import TransferReport, Transfers

REAP_LIMIT = 50
"""Expired leases that one call of reap puts back, at most."""

REAP_LIMIT_IN_LEASE = 16
MAX_REQUEST_ID_CHARS = 256
MAX_EXIT_CODE = 2**31


class Leases(Drains):
    """The nodes' side of the store."""

    def lease(self, user_id: str, container_group_id: str, node: str, request_id: str) -> Lease | None:
        """A job for a node, or None; does not wait. The same request again gets the same lease.

        Raises InvalidInputError for an unfit node name.
        """
        checked("machine_id", node)
        if len(request_id) > MAX_REQUEST_ID_CHARS:
            raise InvalidInputError(f"The request id has more than {MAX_REQUEST_ID_CHARS} characters.")
        place = self._registry.find(user_id, container_group_id)
        if place is None or self.is_drained(place, node):
            return None
        secret = _secret(user_id, container_group_id, node, request_id or secrets.token_urlsafe(24))
        answer = self._run("lease", place, node=node, secret=_digest(secret), reap_limit=REAP_LIMIT_IN_LEASE)
        if answer is None:
            return None
        fence = int(answer[3])
        return Lease(
            job=job_of(place, answer), secret=f"{fence}.{secret}", fence=fence, expires=int(answer[4])
        )

    def heartbeat(
        self,
        job_id: str,
        holder: Holder,
        *,
        user_id: str | None = None,
        backlog: UploadBacklog | None = None,
        progress: ProgressReport | None = None,
        transfers: TransferReport | None = None,
        days: float = DEFAULT_DAYS,
    ) -> HeartbeatReply:
        """Renews a lease; tells a caller that does not hold the job that it is canceled for him, and why.

        ``backlog`` is what the holder has to upload, ``progress`` what the command says, ``transfers`` what
        was moved; None leaves what was said before. How progress was over time, and what was moved, is kept
        for so many ``days`` after the last word; 0: not at all. Raises NotFoundError.
        """
        place = self._place_of(job_id, user_id)
        status, reason, expires = self._about(
            "heartbeat",
            place,
            job_id,
            **credentials(holder),
            progress="" if progress is None else progress.encode(),
        )
        told = Told(backlog, transfers, progress is not None)
        if told and expires:
            with translated():
                note(self.redis, place.keys, job_id, told, days=days)
        return HeartbeatReply(
            status=JobStatus(status.decode()),
            reason=reason.decode() or None,
            lease_expires=int(expires) if expires else None,
            drain=self.is_drained(place, holder.node),
        )

    def upload_backlog(self, job_id: str, *, user_id: str | None = None) -> UploadBacklog | None:
        """What of the job waits for its upload, by its holder's last word; None: nothing, or nobody holds it.

        Raises NotFoundError.
        """
        place = self._place_of(job_id, user_id)
        with translated():
            return uploads.of_job(self.redis, place.keys, job_id)

    def transfers(self, job_id: str, *, user_id: str | None = None) -> Transfers | None:
        """What was moved for the entries of the job, by the last word of a node; None: none said anything.

        Raises NotFoundError.
        """
        place = self._place_of(job_id, user_id)
        with translated():
            return moves.of_job(self.redis, place.keys, job_id)

    def finish(
        self,
        job_id: str,
        holder: Holder,
        outcome: Outcome,
        *,
        exit_code: int | None = None,
        reason: str | None = None,
        end: CommandEnd = NOTHING_KNOWN,
        user_id: str | None = None,
    ) -> FinishReply:
        """Takes the report of how an attempt ended; the same report again has no effect and the same answer.

        Raises NotFoundError, LeaseLostError, and InvalidInputError for an outcome that nodes do not report.
        """
        if outcome not in REPORTABLE:
            raise InvalidInputError(f"{outcome} is not an outcome that a node reports.")
        if exit_code is not None and abs(exit_code) > MAX_EXIT_CODE:
            raise InvalidInputError(f"The exit code {exit_code} is out of bounds.")
        place = self._place_of(job_id, user_id)
        try:
            status, failures, bans = self._about(
                "finish",
                place,
                job_id,
                **credentials(holder),
                outcome=str(outcome),
                details=encode_details(exit_code, reason, end),
                by_hand=secrets.token_hex(8) if holder.may_report_unheld else "",
            )
        except LeaseLostError as error:
            raise LeaseLostError(f"Job {job_id}: {error}", reason=error.reason) from None
        return FinishReply(status=JobStatus(status.decode()), num_failures=int(failures), node_bans=int(bans))

    def with_leases(self) -> list[Queue]:
        """The queues that hold leased or delayed jobs, and so must be reaped; costs one round trip."""
        places = self._registry.all(None)
        with translated():
            looking = self.redis.pipeline(transaction=False)
            for place in places:
                looking.exists(place.keys.leased, place.keys.delayed)
            return [place.queue for place, some in zip(places, looking.execute(), strict=True) if some]

    def reap(self, queue: Queue) -> int:
        """Puts jobs whose lease has expired back and lets due ones wait, at most 50 of each.

        Called every second or so: it moves the logical clock on. Returns how many leases had expired.
        """
        place = self._registry.numbered(queue.number)
        return 0 if place is None else int(self._run("reap", place, limit=REAP_LIMIT))


def _secret(*parts: str) -> str:
    """The secret of a lease: the same request derives the same one, so that a lost reply can be repeated."""
    data = "\0".join(("kelpie lease secret", *parts))
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(secret: str) -> str:
    """What Redis keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def credentials(holder: Holder) -> dict[str, Argument]:
    """How a holder shows itself to a script. Raises InvalidInputError for an unfit node name."""
    checked("machine_id", holder.node)
    return {"node": holder.node, "lease": "" if holder.lease is None else _proof(holder.lease)}


def _proof(lease: str) -> str:
    """What a script compares a lease by: its fencing token, and the digest of its secret."""
    fence, _, secret = lease.partition(".")
    return f"{fence if fence.isascii() and fence.isdecimal() else ''}.{_digest(secret)}"
