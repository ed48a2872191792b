"""How many webhook deliveries wait: read from what RQ keeps, without RQ's own clean-up at every look."""

from __future__ import annotations

import redis

from kelpie.store.connection import translated

QUEUE = "kelpie-webhooks"
"""The RQ queue of webhook deliveries; kelpie.platform.tasks puts them there."""

STATES = ("queued", "scheduled", "running", "failed")


def read_deliveries(client: redis.Redis) -> dict[str, int]:
    """Deliveries by state: queued, scheduled (for another try), running, failed (given up)."""
    with translated():
        reading = client.pipeline(transaction=False)
        reading.llen(f"rq:queue:{QUEUE}")
        reading.zcard(f"rq:scheduled:{QUEUE}")
        reading.zcard(f"rq:wip:{QUEUE}")
        reading.zcard(f"rq:failed:{QUEUE}")
        return dict(zip(STATES, reading.execute(), strict=True))
