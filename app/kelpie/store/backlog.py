"""How many webhook deliveries wait: what the store keeps of them, and what RQ does with them now."""

from __future__ import annotations

import redis

from kelpie.store.connection import translated

QUEUE = "kelpie-webhooks"
"""The RQ queue of webhook deliveries; kelpie.platform.tasks puts them there."""

UNSETTLED = "kelpie:{webhooks}:queued"
"""A hash: user → how many of his deliveries have neither arrived nor been given up."""

STATES = ("waiting", "queued", "running", "failed")


def read_backlog(client: redis.Redis, rq: redis.Redis | None) -> dict[str, int]:
    """Deliveries by state: waiting (for any try), queued (handed to RQ), running, failed (of RQ's tasks).

    ``rq`` None: nobody knows where it is; then the last three are left out.
    """
    with translated():
        backlog = {"waiting": sum(int(count) for count in client.hvals(UNSETTLED))}
        if rq is not None:
            reading = rq.pipeline(transaction=False)
            reading.llen(f"rq:queue:{QUEUE}")
            reading.zcard(f"rq:wip:{QUEUE}")
            reading.zcard(f"rq:failed:{QUEUE}")
            backlog |= dict(zip(STATES[1:], reading.execute(), strict=True))
    return backlog
