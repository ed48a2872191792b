"""Everything that configures a worker: one frozen object, read from the environment once, at start.

Every field carries the names of its environment variables, its unit, its default and one line of help in the
metadata of the dataclass; :func:`settings_table` yields them for the reference page. A bad value is refused
by name with :class:`~kelpie.errors.StartupError`, and all bad values of one environment are named at once.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from kelpie.errors import StartupError

T = TypeVar("T")

MiB = 1 << 20
MAX_POLL_WAIT_S = 20
"""The longest long poll that the API grants, in seconds."""
MAX_NAME_LENGTH = 128
"""Characters in the name of a node or a container group, at most."""


def setting(
    default: T,
    *env: str,
    unit: str = "",
    help: str,  # noqa: A002  (the name that every option parser gives to this text)
    parse: Callable[[str], T],
    secret: bool = False,
    shown_default: str | None = None,
) -> T:
    """One field of a settings class; of several environment variables the first one set wins."""
    metadata = {
        "env": env,
        "unit": unit,
        "help": help,
        "parse": parse,
        "secret": secret,
        "shown_default": _shown(default) if shown_default is None else shown_default,
    }
    # dataclasses.field is typed as its default's type, exactly as this function is
    return field(default=default, repr=not secret, metadata=metadata)


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return os.pathsep.join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


# ---- parsers: each takes the text of a variable and raises ValueError with what would be right


def _text(value: str) -> str:
    return value


def _name(value: str) -> str:
    if len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise ValueError(f"must be at most {MAX_NAME_LENGTH} printable characters")
    return value


def _boolean(value: str) -> bool:
    lowered = value.lower()
    if lowered in {"true", "1", "yes", "on"}:
        return True
    if lowered in {"false", "0", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:  # also refuses nan
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value.lower()

    return parse


def _log_level(value: str) -> str:
    # the names of Kelpie 0.5 to 0.7 mean the nearest of ours
    older = {"trace": "debug", "warn": "warning", "fatal": "critical"}
    return _one_of("debug", "info", "warning", "error", "critical")(older.get(value.lower(), value))


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.netloc or parts.scheme == "unix"):
            raise ValueError(f"must be a URL that starts with {', '.join(s + '://' for s in schemes)}")
        return value.rstrip("/")

    return parse


def _paths(value: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in value.split(os.pathsep) if part)
    if not all(path.is_absolute() for path in paths):
        raise ValueError(f"must be absolute paths separated by {os.pathsep!r}")
    return paths


_REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_TEMP_DIR = Path(tempfile.gettempdir())
_STATE_FILE = Path("kelpie-state.json")
_OPTIONS = {"container_group_id": "--queue", "machine_id": "--machine-id"}
_MAX_SECRET_BYTES = 65_536
_DAY_S = 86_400
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncSettings:
    """What configures the sync engine. The storage's address and keys are read by boto3 (``AWS_*``)."""

    max_retries: int = setting(
        8,  # about half a minute of a store that is away
        "MAX_RETRIES",
        unit="tries",
        help="Tries of one request to the storage before its transfer fails.",
        parse=_integer(1, 100),
    )
    part_size: int = setting(
        10 * MiB,
        "KELPIE_PART_SIZE",
        unit="bytes",
        help="Size of the parts that large files are moved in.",
        parse=_integer(5 * MiB, 1024 * MiB),
    )
    parts_per_file: int = setting(
        8,
        "KELPIE_PARTS_PER_FILE",
        unit="parts",
        help="Parts of one file in flight at once.",
        parse=_integer(1, 64),
    )
    threads: int = setting(
        64,
        "KELPIE_TRANSFER_THREADS",
        unit="threads",
        help="Transfers in flight at once, over all jobs of the node, at most: a fast link needs few, and "
        "more are begun only while the storage is what is waited for. Each takes half a MiB.",
        parse=_integer(1, 256),
    )
    transport: str = setting(
        "auto",
        "KELPIE_SYNC_TRANSPORT",
        help="How objects travel: `auto` (a lean client where it knows the storage, else boto3) or `boto3`.",
        parse=_one_of("auto", "boto3"),
    )
    watcher_debounce_ms: int = setting(
        1000,
        "FILE_WATCHER_DEBOUNCE_MS",
        unit="ms",
        help="Changes of a file are collected for this long before it is uploaded.",
        parse=_integer(0, _HOUR_MS),
    )
    watcher_max_wait_ms: int = setting(
        2000,
        "FILE_WATCHER_MAX_WAIT_MS",
        unit="ms",
        help="A file that keeps being closed and rewritten is uploaded at least this often.",
        parse=_integer(0, _HOUR_MS),
    )
    watcher_stability_ms: int = setting(
        1000,
        "FILE_WATCHER_STABILITY_CHECK_MS",
        unit="ms",
        help="A file kept open by its writer is uploaded when unchanged for three times this long.",
        parse=_integer(1, _HOUR_MS),
    )
    changed_during_upload: str = setting(
        "again",
        "KELPIE_CHANGED_DURING_UPLOAD",
        help="What a change of a file during its own upload leads to: `again` (one more upload) or `ignore`.",
        parse=_one_of("again", "ignore"),
    )
    allowed_roots: tuple[Path, ...] = setting(
        (),
        "KELPIE_ALLOWED_ROOTS",
        help="Folders that sync entries may name or lie in, separated by `:`; empty: any but system folders.",
        parse=_paths,
    )
    temp_dir: Path = setting(  # noqa: RUF009  (a field, as dataclasses.field is)
        _TEMP_DIR,
        "KELPIE_TEMP_DIR",
        help="Where outputs wait for their upload when they cannot stay on their own file system.",
        parse=Path,
        shown_default="the system's temporary folder",
    )
    stall_timeout_s: float = setting(
        60.0,
        "KELPIE_STALL_TIMEOUT_S",
        unit="s",
        help="A connection to the storage that moves no byte for this long is retried.",
        parse=_seconds(1, _DAY_S),
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The settings of an environment (default: the process's own); StartupError names every bad value."""
        return _read(cls, os.environ if environ is None else environ)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What configures a worker, its sync engine aside."""

    api_url: str = setting(
        "http://127.0.0.1:8080",
        "KELPIE_API_URL",
        help="Where jobs come from: the API, or `redis://…` to lease straight from Redis.",
        parse=_url("http", "https", *_REDIS_SCHEMES),
        secret=True,  # the address of a Redis may hold its password
    )
    api_key: str = setting(
        "",
        "KELPIE_API_KEY",
        help="The API key; with `redis://…` it tells whose queue is served. Never reaches a command.",
        parse=_text,
        secret=True,
    )
    wait_replicas: int = setting(
        0,
        "KELPIE_WAIT_REPLICAS",
        unit="replicas",
        help="With `redis://…`: how many replicas must have a report before it counts as made.",
        parse=_integer(0, 16),
    )
    salad_api_key: str = setting(
        "",
        "SALAD_API_KEY",
        help="A SaladCloud API key, used when KELPIE_API_KEY is not set. Never reaches a command.",
        parse=_text,
        secret=True,
    )
    salad_organization: str = setting(
        "",
        "SALAD_ORGANIZATION",
        "SALAD_ORGANIZATION_NAME",
        help="The SaladCloud organization of SALAD_API_KEY.",
        parse=_text,
    )
    salad_project: str = setting(
        "",
        "SALAD_PROJECT",
        "SALAD_PROJECT_NAME",
        help="The SaladCloud project of SALAD_API_KEY.",
        parse=_text,
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
        parse=_name,
        shown_default="the host name",
    )
    container_group_id: str = setting(
        "default",
        "SALAD_CONTAINER_GROUP_ID",
        "KELPIE_CONTAINER_GROUP_ID",
        help="The queue that this worker serves.",
        parse=_name,
    )
    log_level: str = setting(
        "info",
        "KELPIE_LOG_LEVEL",
        help="The least important line that is logged.",
        parse=_log_level,
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
        parse=_seconds(1, _DAY_S),
    )
    grace_s: float = setting(
        15.0,
        "KELPIE_GRACE_S",
        unit="s",
        help="Time between SIGTERM and SIGKILL for a command that must end.",
        parse=_seconds(0, _DAY_S),
    )
    max_job_failures: int = setting(
        5,
        "MAX_JOB_FAILURES",
        unit="jobs",
        help="A node banned from this many live jobs, or on which as many failed, asks to be replaced.",
        parse=_integer(1, 1_000_000),
    )
    max_time_with_no_work_s: float = setting(
        0.0,
        "MAX_TIME_WITH_NO_WORK_S",
        unit="s",
        help="A node idle for this long asks to be replaced; 0: never.",
        parse=_seconds(0, 366 * _DAY_S),
    )
    recreate_between_jobs: bool = setting(
        False,
        "KELPIE_RECREATE_BETWEEN_JOBS",
        help="Whether each job gets a container of its own: after one job the metadata service recreates it.",
        parse=_boolean,
    )
    imds_url: str = setting(
        "http://169.254.169.254",
        "KELPIE_IMDS_URL",
        help="The metadata service of this node, which replaces or recreates it, or announces its end.",
        parse=_url("http", "https"),
    )
    keep_logs: bool = setting(
        True,
        "KELPIE_KEEP_LOGS",
        help="Whether what commands print is sent to the API, which keeps some of it for their owner.",
        parse=_boolean,
    )
    log_interval_s: float = setting(
        2.0,
        "KELPIE_LOG_INTERVAL_S",
        unit="s",
        help="How often what a command prints is sent.",
        parse=_seconds(0.1, 3600),
    )
    notices: str = setting(
        "auto",
        "KELPIE_NOTICES",
        help="Which cloud is asked whether this machine is about to end: `ec2`, `gcp`, `azure`, `auto` "
        "(the one that answers at KELPIE_IMDS_URL) or `none`.",
        parse=_one_of("auto", "ec2", "gcp", "azure", "none"),
    )
    min_free_disk_mib: int = setting(
        64,
        "KELPIE_MIN_FREE_DISK_MIB",
        unit="MiB",
        help="With less room on the disks that jobs write to, no job is begun here; 0: whatever there is.",
        parse=_integer(0, 1 << 30),
    )
    deletion_cost: bool = setting(
        True,
        "KELPIE_DELETION_COST",
        help="Whether the metadata service is told what the end of this node would lose (see scale-in).",
        parse=_boolean,
    )
    hide_storage_credentials: bool = setting(
        False,
        "KELPIE_HIDE_STORAGE_CREDENTIALS",
        help="Whether the storage's keys are kept from commands.",
        parse=_boolean,
    )
    input_dir: str = setting(
        "/input",
        "INPUT_DIR",
        help="Where jobs of the legacy form find their input.",
        parse=_text,
    )
    output_dir: str = setting(
        "/output",
        "OUTPUT_DIR",
        help="Where jobs of the legacy form leave their output.",
        parse=_text,
    )
    checkpoint_dir: str = setting(
        "/checkpoint",
        "CHECKPOINT_DIR",
        help="Where jobs of the legacy form keep their checkpoints.",
        parse=_text,
    )
    sync: SyncSettings = field(default_factory=SyncSettings)

    def __post_init__(self) -> None:
        if not self.machine_id:
            object.__setattr__(self, "machine_id", socket.gethostname()[:MAX_NAME_LENGTH] or "localhost")

    @property
    def direct(self) -> bool:
        """Whether jobs are leased straight from Redis."""
        return urlsplit(self.api_url).scheme in _REDIS_SCHEMES

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: str | None) -> Self:
        """The settings of an environment (default: the process's own).

        ``overrides`` are texts by field name that win over the environment (options of the command line);
        None is no override. Raises StartupError, which names every bad value and never shows a secret.
        """
        return _read(cls, os.environ if environ is None else environ, overrides)


def _read(cls: type[T], environ: Mapping[str, str], overrides: Mapping[str, str | None] | None = None) -> T:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for each in fields(cls):  # type: ignore[arg-type]  # both callers give a dataclass
        if each.name == "sync":
            try:
                values["sync"] = SyncSettings.from_env(environ)
            except StartupError as error:
                problems.append(str(error))
            continue
        given = (overrides or {}).get(each.name)
        try:
            source, text = (_OPTIONS[each.name], given) if given else _from_env(each, environ)
        except StartupError as error:
            problems.append(str(error))
            continue
        if not text:  # unset, or set to nothing, as templates of containers leave what is not filled in
            continue
        try:
            values[each.name] = each.metadata["parse"](text)
        except ValueError as error:
            shown = "its value" if each.metadata["secret"] else repr(text[:100])
            problems.append(f"{source}: {shown} is not possible: it {error}")
    if problems:
        raise StartupError("; ".join(problems))
    return cls(**values)


def _from_env(each: Field[Any], environ: Mapping[str, str]) -> tuple[str, str]:
    for name in each.metadata["env"]:
        if text := environ.get(name, "").strip():
            return name, text
        if each.metadata["secret"] and (path := environ.get(f"{name}_FILE", "").strip()):
            return f"{name}_FILE", _from_file(f"{name}_FILE", path)
    return each.metadata["env"][0], ""


def _from_file(name: str, path: str) -> str:
    """A secret that stands in a file, which no list of processes shows. Raises StartupError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_SECRET_BYTES + 1)
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StartupError(f"{name}: {path} cannot be read: {why}") from None
    if not text or len(data) > _MAX_SECRET_BYTES:
        raise StartupError(f"{name}: {path} must hold one secret of at most {_MAX_SECRET_BYTES} bytes")
    return text


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
