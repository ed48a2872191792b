"""Everything that configures a worker: one frozen object, read from the environment once, at start.

Every field (see fields.py) carries the names of its environment variables, its unit, its default and one
line of help in the metadata of the dataclass; :func:`settings_table` yields them for the reference page. A
bad value is refused by name with :class:`~kelpie.errors.StartupError`, and all bad values of one environment
at once.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from kelpie_worker.fields import (
    MAX_NAME_LENGTH,
    boolean,
    integer,
    log_level,
    name,
    one_of,
    read,
    seconds,
    setting,
    text,
    url,
)
from kelpie_worker.sync.settings import SyncSettings

MAX_POLL_WAIT_S = 20
"""The longest long poll that the API grants, in seconds."""

_REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_STATE_FILE = Path("kelpie-state.json")
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What configures a worker, its sync engine aside."""

    api_url: str = setting(
        "http://127.0.0.1:8080",
        "KELPIE_API_URL",
        help="Where jobs come from: the API, or `redis://…` to lease straight from Redis.",
        parse=url("http", "https", *_REDIS_SCHEMES),
        secret=True,  # the address of a Redis may hold its password
    )
    api_key: str = setting(
        "",
        "KELPIE_API_KEY",
        help="The API key; with `redis://…` it tells whose queue is served. Never reaches a command.",
        parse=text,
        secret=True,
    )
    wait_replicas: int = setting(
        0,
        "KELPIE_WAIT_REPLICAS",
        unit="replicas",
        help="With `redis://…`: how many replicas must have a report before it counts as made.",
        parse=integer(0, 16),
    )
    salad_api_key: str = setting(
        "",
        "SALAD_API_KEY",
        help="A SaladCloud API key, used when KELPIE_API_KEY is not set. Never reaches a command.",
        parse=text,
        secret=True,
    )
    salad_organization: str = setting(
        "",
        "SALAD_ORGANIZATION",
        "SALAD_ORGANIZATION_NAME",
        help="The SaladCloud organization of SALAD_API_KEY.",
        parse=text,
    )
    salad_project: str = setting(
        "",
        "SALAD_PROJECT",
        "SALAD_PROJECT_NAME",
        help="The SaladCloud project of SALAD_API_KEY.",
        parse=text,
    )
    token_file: Path | None = setting(  # noqa: RUF009  (a field, as dataclasses.field is)
        None,
        "KELPIE_TOKEN_FILE",
        help="A file with this node's own identity (a signed token, JWT), used when no API key is set; read "
        "anew at every call. SALAD_PROJECT goes with it.",
        parse=Path,
        shown_default="",
    )
    machine_id: str = setting(
        "",
        "SALAD_MACHINE_ID",
        "KELPIE_MACHINE_ID",
        help="The name of this node; bans are kept under it, so it stays the same over restarts.",
        parse=name,
        shown_default="the host name",
        option="--machine-id",
    )
    container_group_id: str = setting(
        "default",
        "SALAD_CONTAINER_GROUP_ID",
        "KELPIE_CONTAINER_GROUP_ID",
        help="The queue that this worker serves.",
        parse=name,
        option="--queue",
    )
    slots: int = setting(
        1,
        "KELPIE_SLOTS",
        unit="jobs",
        help="How many jobs run on this machine at once, each in a worker process of its own.",
        parse=integer(1, 256),
        option="--slots",
    )
    gpus: str = setting(
        "",
        "KELPIE_GPUS",
        help="The GPUs that are divided among the slots, as CUDA_VISIBLE_DEVICES names them; `none`: none.",
        parse=text,
        shown_default="CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists",
    )
    log_level: str = setting(
        "info",
        "KELPIE_LOG_LEVEL",
        help="The least important line that is logged.",
        parse=log_level,
    )
    state_file: Path = setting(  # noqa: RUF009  (a field, as dataclasses.field is)
        _STATE_FILE,
        "KELPIE_STATE_FILE",
        help="The file that shows the jobs of this node and their transfers; its path reaches the command.",
        parse=Path,
        shown_default="./kelpie-state.json",
    )
    poll_wait_s: float = setting(
        10.0,
        "HEARTBEAT_INTERVAL_S",
        unit="s",
        help=f"How long one poll of an idle worker waits for a job; at most {MAX_POLL_WAIT_S} count.",
        parse=seconds(1, _DAY_S),
    )
    grace_s: float = setting(
        15.0,
        "KELPIE_GRACE_S",
        unit="s",
        help="Time between SIGTERM and SIGKILL for a command that must end.",
        parse=seconds(0, _DAY_S),
    )
    max_job_failures: int = setting(
        5,
        "MAX_JOB_FAILURES",
        unit="jobs",
        help="A node banned from this many live jobs, or on which as many failed, asks to be replaced.",
        parse=integer(1, 1_000_000),
    )
    max_time_with_no_work_s: float = setting(
        0.0,
        "MAX_TIME_WITH_NO_WORK_S",
        unit="s",
        help="A node idle for this long asks to be replaced; 0: never.",
        parse=seconds(0, 366 * _DAY_S),
    )
    recreate_between_jobs: bool = setting(
        False,
        "KELPIE_RECREATE_BETWEEN_JOBS",
        help="Whether each job gets a container of its own: after one job the metadata service recreates it.",
        parse=boolean,
    )
    imds_url: str = setting(
        "http://169.254.169.254",
        "KELPIE_IMDS_URL",
        help="The metadata service of this node, which replaces or recreates it, or announces its end.",
        parse=url("http", "https"),
    )
    keep_logs: bool = setting(
        True,
        "KELPIE_KEEP_LOGS",
        help="Whether what commands print is sent to the API, which keeps some of it for their owner.",
        parse=boolean,
    )
    log_interval_s: float = setting(
        2.0,
        "KELPIE_LOG_INTERVAL_S",
        unit="s",
        help="How often what a command prints is sent.",
        parse=seconds(0.1, 3600),
    )
    notices: str = setting(
        "auto",
        "KELPIE_NOTICES",
        help="Which cloud is asked whether this machine is about to end: `ec2`, `gcp`, `azure`, `auto` "
        "(the one that answers at KELPIE_IMDS_URL) or `none`.",
        parse=one_of("auto", "ec2", "gcp", "azure", "none"),
    )
    min_free_disk_mib: int = setting(
        64,
        "KELPIE_MIN_FREE_DISK_MIB",
        unit="MiB",
        help="With less room on the disks that jobs write to, no job is begun here; 0: whatever there is.",
        parse=integer(0, 1 << 30),
    )
    memory_limit_mib: int = setting(
        0,
        "KELPIE_MEMORY_LIMIT_MIB",
        unit="MiB",
        help="What a command and all that it starts may use of memory, by cgroup v2; 0: no limit.",
        parse=integer(0, 1 << 30),
    )
    memory_limit_required: bool = setting(
        False,
        "KELPIE_MEMORY_LIMIT_REQUIRED",
        help="Whether a worker that cannot limit memory refuses to start, instead of saying so.",
        parse=boolean,
    )
    deletion_cost: bool = setting(
        True,
        "KELPIE_DELETION_COST",
        help="Whether the metadata service is told what the end of this node would lose (see scale-in).",
        parse=boolean,
    )
    hide_storage_credentials: bool = setting(
        False,
        "KELPIE_HIDE_STORAGE_CREDENTIALS",
        help="Whether the storage's keys are kept from commands.",
        parse=boolean,
    )
    input_dir: str = setting(
        "/input",
        "INPUT_DIR",
        help="Where jobs of the legacy form find their input.",
        parse=text,
    )
    output_dir: str = setting(
        "/output",
        "OUTPUT_DIR",
        help="Where jobs of the legacy form leave their output.",
        parse=text,
    )
    checkpoint_dir: str = setting(
        "/checkpoint",
        "CHECKPOINT_DIR",
        help="Where jobs of the legacy form keep their checkpoints.",
        parse=text,
    )
    slot: int = 0  # the number of this slot, from 1; 0: a worker without slots
    sync: SyncSettings = field(default_factory=SyncSettings)

    def __post_init__(self) -> None:
        if not self.machine_id:
            object.__setattr__(self, "machine_id", socket.gethostname()[:MAX_NAME_LENGTH] or "localhost")

    @property
    def direct(self) -> bool:
        """Whether jobs are leased straight from Redis."""
        return self.api_url.partition("://")[0].lower() in _REDIS_SCHEMES

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: str | None) -> Self:
        """The settings of an environment (default: the process's own).

        ``overrides`` are texts by field name that win over the environment (options of the command line);
        None is no override. Raises StartupError, which names every bad value and never shows a secret.
        """
        return read(cls, os.environ if environ is None else environ, overrides)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the settings reference."""

    env: tuple[str, ...]
    default: str
    unit: str
    help: str


def settings_table() -> Iterator[SettingRow]:
    """Every setting of a worker, in the order of the reference page."""
    for cls in (Settings, SyncSettings):
        for each in fields(cls):
            if each.metadata:
                meta = each.metadata
                yield SettingRow(meta["env"], meta["shown_default"], meta["unit"], meta["help"])
