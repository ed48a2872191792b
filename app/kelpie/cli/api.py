"""``kelpie api``: serve the HTTP API."""

from __future__ import annotations

import click


@click.command(
    "api",
    epilog="""\b
Examples:
  KELPIE_ADMIN_KEY=$(openssl rand -hex 32) kelpie api
  KELPIE_REDIS_URL=redis://10.0.0.5:6379/0 kelpie api --bind 0.0.0.0:8080 --workers 4
  KELPIE_REDIS_URL=redis+sentinel://s1,s2,s3/primary/0 KELPIE_WAIT_REPLICAS=1 kelpie api

\b
Environment: KELPIE_REDIS_URL (redis://127.0.0.1:6379/0), KELPIE_ADMIN_KEY (the admin's API key, 32
characters or more; a new value replaces the old key), KELPIE_CORS_ORIGINS (*), KELPIE_MAX_BODY_BYTES,
KELPIE_EVENT_STREAM_S (3600), KELPIE_REDIS_WAIT_S (30), KELPIE_SHUTDOWN_GRACE_S (30),
KELPIE_LOG_LEVEL (info), KELPIE_METRICS_TOKEN, KELPIE_WAIT_REPLICAS (0), KELPIE_RQ_URL, rate limits, and more:
see docs/reference/settings.md. A value may stand in a file: KELPIE_ADMIN_KEY_FILE=/run/secrets/admin_key.

\b
Exit codes:
   0  stopped in good order (SIGTERM, SIGINT)
   1  the address is taken, or a worker process cannot run
  69  Redis cannot be reached
  78  a setting is wrong, or Redis is set up in a way that would lose jobs
""",
)
@click.option(
    "--bind", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen."
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes; each serves thousands of long polls.",
)
def command(bind: str, workers: int) -> None:
    """Serve the HTTP API, the interactive reference (/docs) and the schema (/openapi.json)."""
    # First of all: everything imported from here on must see gevent's sockets, locks and threads.
    from gevent import monkey

    monkey.patch_all()

    from kelpie.http.server import serve
    from kelpie.platform.startup import exit_codes, open_store, read_settings

    with exit_codes("kelpie api"):
        settings = read_settings()
        store = open_store(settings)
        try:
            key = settings.admin_key
            store.users.ensure_admin(key.get_secret_value() if key else None)
        finally:
            store.close()  # workers are forked and connect on their own
        serve(settings, bind=bind, workers=workers)
