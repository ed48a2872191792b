"""``kelpie data``: copy folders to a bucket and back with the sync engine of the nodes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kelpie.cli import exit_codes
from kelpie.cli.output import print_json, print_json_array, safe, size

if TYPE_CHECKING:
    from kelpie.patterns import Pattern
    from kelpie_worker.sync.copying import Copied, Copier, Progress

_SCHEME = "s3://"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
all_option = click.option(
    "--all", "everything", is_flag=True, help="Copy also what has not changed since the last copy."
)
compression_option = click.option(
    "--compression", is_flag=True, help="Objects are gzipped; their names end in .gz."
)


class _Url(click.ParamType[tuple[str, str]]):
    """``s3://bucket/prefix`` as (bucket, prefix)."""

    name = "url"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        bucket, _, prefix = str(value).removeprefix(_SCHEME).partition("/")
        if not str(value).startswith(_SCHEME) or not bucket:
            self.fail(f"{value!r} is no place in a bucket; write s3://bucket/prefix", param, ctx)
        return bucket, prefix


URL = _Url()


def _pattern(ctx: click.Context, param: click.Parameter, value: str | None) -> Pattern | None:
    if value is None:
        return None
    from kelpie.patterns import compile_pattern

    try:
        return compile_pattern(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from None


pattern_option = click.option(
    "--pattern",
    metavar="REGEX",
    callback=_pattern,
    help="Only files whose path below the folder or the prefix matches.",
)


@click.group(
    "data",
    epilog=f"""\b
Examples:
  kelpie data put ./dataset s3://bucket/dataset
  kelpie data get s3://bucket/results ./results --pattern '\\.csv$'
  kelpie data ls s3://bucket/results/

\b
Environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL_S3 and whatever
else the AWS SDKs heed; KELPIE_TRANSFER_THREADS and the other settings of the sync engine.

{exit_codes.HELP}""",
)
def command() -> None:
    """Copy folders to a bucket and back, as nodes do."""


@command.command(
    "put",
    epilog="""\b
Examples:
  kelpie data put ./dataset s3://bucket/dataset
  kelpie data put model.pt s3://bucket/models/        (as models/model.pt)
  kelpie data put ./out s3://bucket/out --pattern '^final/' --json
""",
)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=URL, metavar="S3://BUCKET/PREFIX")
@pattern_option
@compression_option
@all_option
@json_option
def put(*, source: Path, target: tuple[str, str], everything: bool, as_json: bool, **how: Any) -> None:
    """Store a folder's files under a prefix, or one file. Nothing is deleted there.

    What has changed on neither side since the last copy is passed over.
    """
    bucket, prefix = target
    with _copier(everything=everything, as_json=as_json) as copier:
        copied = copier.put(source, bucket, prefix, **how)
    _say(copied, "stored", as_json=as_json)


@command.command(
    "get",
    epilog="""\b
Examples:
  kelpie data get s3://bucket/results ./results
  kelpie data get s3://bucket/ckpt/ ./ckpt --pattern '\\.pt$'
  kelpie data get s3://bucket/models/model.pt .     (one object, as ./model.pt)
""",
)
@click.argument("source", type=URL, metavar="S3://BUCKET/PREFIX")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@pattern_option
@compression_option
@all_option
@json_option
def get(*, source: tuple[str, str], target: Path, everything: bool, as_json: bool, **how: Any) -> None:
    """Fetch what is under a prefix, or one object, into a folder. Nothing is deleted there.

    Every file is verified before it takes its name. What has changed on neither side since the last copy is
    passed over.
    """
    bucket, prefix = source
    with _copier(everything=everything, as_json=as_json) as copier:
        copied = copier.get(bucket, prefix, target, **how)
    _say(copied, "fetched", as_json=as_json)


@command.command(
    "ls",
    epilog="""\b
Examples:
  kelpie data ls s3://bucket/results/
  kelpie data ls s3://bucket --json | jq -r '.[].key'
""",
)
@click.argument("place", type=URL, metavar="S3://BUCKET/PREFIX")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="At most."
)
@json_option
def ls(*, place: tuple[str, str], limit: int, as_json: bool) -> None:
    """List the objects under a prefix: size, time, key. They are printed as they come."""
    import itertools

    bucket, prefix = place
    with _copier(everything=True, as_json=True) as copier:
        found = copier.objects(bucket, prefix)
        shown = itertools.islice(found, limit)
        if as_json:
            print_json_array(
                {"key": each.key, "size": each.size, "modified": each.modified.isoformat(), "etag": each.etag}
                for each in shown
            )
        else:
            for each in shown:
                time, key = f"{each.modified:%Y-%m-%d %H:%M:%S}", safe(each.key, longest=1100)
                click.echo(f"{each.size:>15,}  {time}  {key}")
        more = next(found, None) is not None
    if more:
        click.echo(f"kelpie: there are more than {limit} objects: give --limit", err=True)


@contextmanager
def _copier(*, everything: bool, as_json: bool) -> Iterator[Copier]:
    """The engine, with progress bars on a terminal."""
    from kelpie_worker.sync.copying import Copier
    from kelpie_worker.sync.settings import SyncSettings

    settings = SyncSettings.from_env()
    _be_quiet()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was begun is aborted
    with (
        _progress(shown=sys.stderr.isatty() and not as_json) as progress,
        Copier(settings, progress, manifests=None if everything else _cache()) as copier,
    ):
        yield copier


def _cache() -> Path:
    """Where what was copied is remembered: https://specifications.freedesktop.org/basedir-spec/."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "kelpie" / "data"


def _be_quiet() -> None:
    """The engine's log is for nodes; here only what goes wrong is of interest."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class _Nothing:
    """Progress that nobody watches."""

    def planned(self, files: int, size: int) -> None:
        """Nothing."""

    def moved(self, size: int) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    if not shown:
        yield _Nothing()
        return
    from kelpie.cli.progress import Bars

    with Bars() as bars:
        yield bars


def _say(copied: Copied, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "files": copied.files,
                "bytes": copied.size,
                "unchanged": copied.unchanged,
                "seconds": round(copied.seconds, 4),
            }
        )
        return
    rate = copied.size / copied.seconds if copied.seconds else 0
    unchanged = f", {copied.unchanged} unchanged" if copied.unchanged else ""
    click.echo(
        f"{copied.files} files {what}, {size(copied.size)} in {copied.seconds:.1f} s"
        f" ({size(rate)}/s){unchanged}"
    )
