"""What Kelpie shows in a browser: the dashboard at ``/ui``, and the interactive API reference."""

from kelpie_web import (
    assets,
    audit,
    auth,
    bulk,
    groups,
    job,
    jobs,
    live,
    log,
    nodes,
    oidc,
    overview,
    reference,
    submit,
    users,
    webhooks,
)
from kelpie_web.pages import pages
from kelpie_web.ui import ui as dashboard

__all__ = [
    "assets",
    "audit",
    "auth",
    "bulk",
    "dashboard",
    "groups",
    "job",
    "jobs",
    "live",
    "log",
    "nodes",
    "oidc",
    "overview",
    "pages",
    "reference",
    "submit",
    "users",
    "webhooks",
]
