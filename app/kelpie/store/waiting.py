"""Why a live job is not running now, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import redis

from kelpie.job import LIVE, Job, iso
from kelpie.store.codec import text
from kelpie.store.connection import translated
from kelpie.store.registry import Place

RECENT_MS = 60_000
"""A node that has not polled for this long does not poll any more: idle workers ask every 10 s."""

MAX_NODES = 1000  # that are looked at, those that polled last
MAX_NAMED = 3


def explained(client: redis.Redis, found: Sequence[tuple[Place, Job]]) -> list[Job]:
    """The jobs with their ``waiting_for``; costs one round trip if some of them wait for a node."""
    waiting = [(place, job) for place, job in found if _waits_for_a_node(job)]
    words: dict[str, str] = {}
    if waiting:
        places = list({place.queue.number: place for place, _ in waiting}.values())
        with translated():
            reading = client.pipeline(transaction=False)
            for place in places:
                reading.hget(place.keys.meta, "wall")
                reading.zrevrange(place.keys.polls, 0, MAX_NODES - 1, withscores=True)
                reading.zcard(place.keys.leased)
            for place, job in waiting:
                reading.zrank(place.keys.waiting, job.id)
            answers = reading.execute()
        ranks = answers[3 * len(places) :]
        queues = {
            place.queue.number: _recent(answers[3 * i], answers[3 * i + 1], answers[3 * i + 2])
            for i, place in enumerate(places)
        }
        for (place, job), rank in zip(waiting, ranks, strict=True):
            words[job.id] = _for_a_node(job, *queues[place.queue.number], rank)
    return [replace(job, waiting_for=words.get(job.id) or _otherwise(job)) for _, job in found]


def _waits_for_a_node(job: Job) -> bool:
    return job.status in LIVE and not job.held and not job.on_hold and job.due is None


def _otherwise(job: Job) -> str | None:
    if job.status not in LIVE or job.held:
        return None
    if job.on_hold:
        return "held: it waits until it is resumed"
    pause = " (a pause after its last failure)" if job.num_failures and job.due != job.spec.not_before else ""
    return f"not before {iso(job.due)}{pause}"


def _recent(wall: bytes | None, polls: Sequence[tuple[bytes, float]], leased: int) -> tuple[list[str], int]:
    """The nodes that poll, and how many jobs are leased."""
    now = int(wall or 0)
    return [text(node) for node, time in polls if now - time <= RECENT_MS], leased


def _for_a_node(job: Job, polling: Sequence[str], leased: int, rank: int | None) -> str:
    if not polling:
        return f"a free node: all are busy ({leased} jobs run)" if leased else "no node polls this group"
    if set(polling) <= set(job.banned_nodes):
        names = ", ".join(sorted(polling)[:MAX_NAMED]) + (" …" if len(polling) > MAX_NAMED else "")
        return f"every polling node is banned ({names})"
    return f"jobs before it in turn: {rank}" if rank else "it is next in turn"
