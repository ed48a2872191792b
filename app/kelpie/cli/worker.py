"""``kelpie worker``: serve one queue on this node."""

from __future__ import annotations

import sys

import click

from kelpie.errors import StartupError


@click.command(
    "worker",
    epilog="""\b
Examples:
  KELPIE_API_KEY=klp_… kelpie worker --queue simulations
  kelpie worker --queue simulations --slots 4
  KELPIE_API_URL=redis://10.0.0.5:6379/0 KELPIE_API_KEY=klp_… kelpie worker --queue simulations

\b
Environment: KELPIE_API_URL (http://127.0.0.1:8080), KELPIE_API_KEY, KELPIE_CONTAINER_GROUP_ID,
KELPIE_MACHINE_ID, KELPIE_GRACE_S, AWS_* for the storage, and more: see --settings.

\b
Exit codes:
   0  stopped in good order (SIGTERM or SIGINT: the job is handed back; twice: at once;
      SIGUSR1: no other job is taken, and the one here is finished first)
  78  a setting is wrong or a package is missing
  86  replace this node: it failed too many jobs, and no metadata service replaces it
  87  recreate this container: KELPIE_RECREATE_BETWEEN_JOBS, and no metadata service does it
""",
)
@click.option("--queue", metavar="NAME", help="The queue (container group) to serve.")
@click.option("--machine-id", metavar="ID", help="The name of this node.")
@click.option("--slots", metavar="N", help="How many jobs run at once; GPUs are divided among them.")
@click.option("--settings", "show_settings", is_flag=True, help="List every environment variable and exit.")
def command(queue: str | None, machine_id: str | None, slots: str | None, *, show_settings: bool) -> None:
    """Lease jobs of one queue, run their commands, move their data, until stopped."""
    from kelpie_worker.settings import Settings, settings_table

    if show_settings:
        for row in settings_table():
            unit = f" {row.unit}" if row.unit else ""
            click.echo(f"{', '.join(row.env)} [{row.default or 'not set'}{unit}]\n    {row.help}")
        return
    options = {"container_group_id": queue, "machine_id": machine_id, "slots": slots}
    try:
        settings = Settings.from_env(None, **options)
        from kelpie_worker.main import run

        sys.exit(run(settings, options))
    except StartupError as error:
        click.echo(f"kelpie worker: {error}", err=True)
        sys.exit(78)
