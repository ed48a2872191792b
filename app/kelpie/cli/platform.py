"""``kelpie platform``: run what works behind the scenes."""

from __future__ import annotations

import click


@click.command(
    "platform",
    epilog="""\b
Examples:
  kelpie platform
  KELPIE_REDIS_URL=redis://10.0.0.5:6379/0 KELPIE_WEBHOOK_WORKERS=4 kelpie platform

\b
Environment: KELPIE_REDIS_URL (redis://127.0.0.1:6379/0), KELPIE_RQ_URL (the same; needed when that is a
cluster), KELPIE_WAIT_REPLICAS (0), KELPIE_WEBHOOK_WORKERS (1),
KELPIE_WEBHOOK_TIMEOUT_S (10), KELPIE_WEBHOOK_ALLOW_PRIVATE (false), KELPIE_WEBHOOK_KEEP_S (604800),
KELPIE_WEBHOOK_KEEP_COUNT (10000), KELPIE_WEBHOOK_MAX_QUEUED (100000), KELPIE_REAP_INTERVAL_S (0.5),
KELPIE_PROVIDER (local; salad, kubernetes), KELPIE_SALAD_API_KEY, KELPIE_AUTOSCALE_INTERVAL_S (300),
KELPIE_AUTOSCALE_COOLDOWN_S (60), KELPIE_RETENTION_DAYS (0: jobs are kept for ever), KELPIE_REDIS_WAIT_S (30),
KELPIE_SHUTDOWN_GRACE_S (30), KELPIE_LOG_LEVEL (info). A value may stand in a file: KELPIE_REDIS_URL_FILE.

\b
Exit codes:
   0  stopped in good order (SIGTERM, SIGINT)
  69  Redis cannot be reached
  78  a setting is wrong, or Redis is set up in a way that would lose jobs
""",
)
def command() -> None:
    """Deliver webhooks, free the jobs of lost nodes and scale container groups, until stopped."""
    from kelpie.platform.startup import exit_codes, open_store, read_settings
    from kelpie.platform.supervisor import Supervisor

    with exit_codes("kelpie platform"):
        settings = read_settings()
        store = open_store(settings)
        try:
            Supervisor(settings, store).run()
        finally:
            store.close()
