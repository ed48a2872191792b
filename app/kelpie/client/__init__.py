"""The Python client of the API. Needs the bare install only.

>>> from kelpie import Client
>>> with Client() as client:  # KELPIE_API_URL and KELPIE_API_KEY
...     job = client.submit(["python", "sim.py"], queue="sims", during=["/ckpt:s3://bucket/ckpt"])
...     print(client.wait(job.id).status)
"""

from __future__ import annotations

from kelpie.client.events import GAP, Event, EventCalls
from kelpie.client.jobs import Job, JobCalls
from kelpie.client.keys import Key, KeyCalls, User
from kelpie.client.logs import LogCalls, LogLine
from kelpie.client.nodes import NodeCalls
from kelpie.client.scaling import ScalingCalls
from kelpie.client.specs import job_spec, sync_entry
from kelpie.client.transport import DEFAULT_URL, OUTAGE_S
from kelpie.client.webhooks import WebhookCalls

__all__ = [
    "DEFAULT_URL",
    "GAP",
    "OUTAGE_S",
    "Client",
    "Event",
    "Job",
    "Key",
    "LogLine",
    "User",
    "job_spec",
    "sync_entry",
]


class Client(JobCalls, KeyCalls, EventCalls, LogCalls, NodeCalls, WebhookCalls, ScalingCalls):
    """One connection pool to one API with one key. Thread-safe; close it, or use it as a context manager.

    Every method raises :class:`kelpie.errors.KelpieError` of the fitting class. What can be repeated without
    harm is, for some seconds; UnavailableError says that the API could not be reached even so.
    """
