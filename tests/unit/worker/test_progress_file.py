"""What commands write about their progress: by a shell, by the helper, in any order, and hostile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from kelpie import report
from kelpie.progress import MAX_METRICS
from kelpie_worker import progress_file
from kelpie_worker.progress_file import MAX_LINE_BYTES, MAX_READ_BYTES, ProgressReader, Said


class Case:
    """A reader whose clock the test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.path = folder / ".state.json.progress"
        self.reader = ProgressReader(
            self.path, structlog.get_logger(), interval_s=3600, clock=lambda: self.now
        )

    def add(self, text: str, *, after_s: float = 1.0) -> Said:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        return self.look(after_s)

    def look(self, after_s: float = 1.0) -> Said:
        self.now += after_s
        self.reader.look()
        return self.reader.said or Said(0.0)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_last_word_on_each_thing_counts_and_the_rest_stays(case: Case) -> None:
    case.add('{"step": 1, "total": 8, "metrics": {"loss": 0.5, "lr": 1}}\n')
    said = case.add('{"step": 2, "metrics": {"loss": 0.25}}\n{"checkpoint": true}\n')
    assert (said.step, said.total, said.fraction) == (2, 8, 0.25)
    assert said.metrics == {"loss": 0.25, "lr": 1}
    assert said.checkpoint_s == said.updated_s == case.now
    said = case.add('{"fraction": 0.5}')  # also without an end of the line
    assert (said.fraction, said.step, said.checkpoint_s) == (0.5, 2, case.now - 1)
    assert case.look() is said  # no news is the same object


def test_half_a_line_waits_for_its_other_half(case: Case) -> None:
    case.add('{"fraction": 0.1}\n{"frac')
    assert case.add("").fraction == 0.1
    assert case.add('tion": 0.2}\n').fraction == 0.2


def test_a_file_that_is_written_anew_or_replaced_is_read_from_its_beginning(
    case: Case, tmp_path: Path
) -> None:
    for text, fraction in (
        ('{"fraction": 0.1}\n', 0.1),
        ('{"fraction": 0.2}\n', 0.2),  # as long as the one before
        ('{"fraction": 0.25}\n', 0.25),
        ('{"fraction": 0.3}\n', 0.3),
    ):
        case.path.write_text(text)
        assert case.look().fraction == fraction
    other = tmp_path / "other"
    other.write_text('{"fraction": 0.4}\n')
    other.replace(case.path)
    assert case.look().fraction == 0.4


@pytest.mark.parametrize(
    "hostile",
    [
        "no json",
        "[1]",
        '"text"',
        '{"fraction": NaN}',
        '{"fraction": Infinity}',
        '{"fraction": 1e999}',
        '{"fraction": -0.1}',
        '{"fraction": 2}',
        '{"fraction": true}',
        '{"fraction": "0.5"}',
        '{"step": 1' + "0" * 5000 + "}",
        '{"step": 1' + "0" * 400 + "}",
        '{"step": {"a": 1}}',
        '{"metrics": [1]}',
        '{"metrics": {"": 1}}',
        '{"metrics": {"a\\u001b[2J": 1}}',
        '{"metrics": {"\\ud800": 1}}',
        '{"metrics": {"x": null, "y": "1", "z": NaN}}',
        '{"metrics": {"' + "n" * 49 + '": 1}}',
        "[" * 5000 + "]" * 5000,
        '{"a":' * 3000 + "1" + "}" * 3000,
        '{"fraction": 0.9, "pad": "' + "x" * MAX_LINE_BYTES + '"}',
        "\x00" * 100,
    ],
)
def test_what_is_not_understood_is_passed_over_with_one_warning(case: Case, hostile: str) -> None:
    with capture_logs() as logs:
        case.add('{"fraction": 0.5, "metrics": {"loss": 1}}\n' + (hostile + "\n") * 3)
        case.add(hostile + "\n")
        said = case.add('{"step": 7}\n')
    assert (said.fraction, said.step, said.metrics) == (0.5, 7, {"loss": 1})
    assert [line["log_level"] for line in logs] == ["warning"]


def test_bytes_that_are_no_text_and_files_that_are_none_are_passed_over(case: Case, tmp_path: Path) -> None:
    case.path.write_bytes(b'\xff\xfe{"fraction": 0.1}\n{"fraction": 0.2}\n')
    assert case.look().fraction == 0.2
    secret = tmp_path / "secret"
    secret.write_text('{"fraction": 0.9}\n')
    for replaced in (lambda: case.path.symlink_to(secret), lambda: os.mkfifo(case.path), case.path.mkdir):
        case.path.unlink()
        replaced()
        assert case.look().fraction == 0.2
        if case.path.is_dir():
            case.path.rmdir()
            case.path.touch()


def test_what_an_earlier_command_left_in_its_place_is_removed(case: Case, tmp_path: Path) -> None:
    (case.path / "a" / "b").mkdir(parents=True)
    (case.path / "a" / "file").touch()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (case.path / "link").symlink_to(kept)
    case.reader.start()
    assert case.path.is_file()
    assert case.add('{"fraction": 0.5}\n').fraction == 0.5
    case.path.unlink()
    (case.path / "again").mkdir(parents=True)
    case.reader.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()


def test_a_tree_of_any_size_in_its_place_is_in_nobodys_way(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "MAX_REMOVED", 3)
    for n in range(9):
        (case.path / str(n)).mkdir(parents=True)
    case.reader.start()
    assert case.add('{"fraction": 0.5}\n').fraction == 0.5
    case.reader.stop()
    assert not case.path.exists()


def test_a_link_that_is_put_in_its_place_is_not_followed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_file, "_clear", lambda path: path.symlink_to(tmp_path / "elsewhere"))
    case.reader.start()
    case.reader._stopped.set()
    assert not (tmp_path / "elsewhere").exists()


def test_the_number_of_metrics_is_bounded(case: Case) -> None:
    for number in range(MAX_METRICS + 8):
        case.add(f'{{"metrics": {{"m{number}": {number}}}}}\n')
    said = case.add(f'{{"metrics": {{"m0": 7, "m{MAX_METRICS}": 7}}}}\n')
    assert said.metrics == {f"m{number}": number or 7 for number in range(MAX_METRICS)}


def test_of_a_flood_the_end_is_read(case: Case) -> None:
    line = '{"step": 1, "total": 4}\n'
    said = case.add(line * (2 * MAX_READ_BYTES // len(line)) + '{"step": 3, "total": 4}\n')
    assert said.fraction == 0.75
    assert case.add('{"step": 4}\n').fraction == 1.0


@pytest.mark.parametrize("first", [0, 5000])
def test_the_rate_is_that_of_this_attempt_wherever_it_resumed(case: Case, first: int) -> None:
    assert case.add(f'{{"step": {first}, "total": 10000}}\n').rate is None
    for step in range(first + 10, first + 2010, 10):
        said = case.add(f'{{"step": {step}}}\n')
    assert said.rate == pytest.approx(0.001)
    said = case.add(
        f'{{"step": {first}}}\n'
    )  # back to its checkpoint: what was known holds until there is more
    assert said.rate == pytest.approx(0.001)
    case.add(f'{{"step": {first + 20}}}\n')
    assert case.add(f'{{"step": {first + 40}}}\n').rate == pytest.approx(0.002)


def test_the_rate_follows_a_change(case: Case) -> None:
    for step in (*range(0, 1000, 10), *range(1000, 4000, 30)):
        said = case.add(f'{{"step": {step}, "total": 10000}}\n')
    assert said.rate == pytest.approx(0.003, rel=0.1)


def run(script: str, path: Path, **env: Any) -> None:
    environment = {"PATH": os.environ["PATH"], "KELPIE_PROGRESS_FILE": str(path), **env}
    subprocess.run([sys.executable, "-I", "-S", "-c", script], env=environment, check=True, timeout=60)


HELPED = """
import sys; sys.path.insert(0, {folder!r})
from report import report
class Scalar:
    def __float__(self): return 0.125
for step in range(1000):
    report(step, 2000, loss=Scalar(), bad="x", worse=float("nan"))
report(checkpoint=True)
report(fraction=float("inf"), late=1)
"""


def test_the_helper_alone_is_enough_for_an_image(case: Case, tmp_path: Path) -> None:
    shutil.copy(report.__file__, tmp_path / "report.py")
    run(HELPED.format(folder=str(tmp_path)), case.path)
    assert len(case.path.read_text().splitlines()) < 50  # calls close together are one line
    said = case.look()
    assert (said.step, said.total, said.fraction) == (999, 2000, 999 / 2000)
    assert said.metrics == {"loss": 0.125, "late": 1}
    assert said.checkpoint_s == case.now
    case.path.write_text("x" * (2 << 20))
    run(HELPED.format(folder=str(tmp_path)), case.path)
    assert case.path.stat().st_size < 10_000
    run(HELPED.format(folder=str(tmp_path)), tmp_path / "missing" / "file")  # no reason to end a job


INTERRUPTED = """
import json, signal, sys; sys.path.insert(0, {folder!r})
import report
dumps = json.dumps
def interrupted(told):
    line = dumps(told)
    if "handled" not in told.get("metrics", {{}}):
        signal.raise_signal(signal.SIGTERM)
    return line
json.dumps = interrupted
signal.signal(signal.SIGTERM, lambda *_: report.report(2, checkpoint=True, handled=1))
report.report(1, checkpoint=True, loss=0.5)
signal.raise_signal(signal.SIGKILL)
"""


def test_a_signal_handler_may_report_in_the_middle_of_a_report(case: Case, tmp_path: Path) -> None:
    shutil.copy(report.__file__, tmp_path / "report.py")
    with pytest.raises(subprocess.CalledProcessError):  # it dies at once: nothing is left to its exit
        run(INTERRUPTED.format(folder=str(tmp_path)), case.path)
    told = [json.loads(line) for line in case.path.read_text().splitlines()]
    assert told == [
        {"step": 1, "metrics": {"loss": 0.5}, "checkpoint": True},
        {"step": 2, "metrics": {"handled": 1}, "checkpoint": True},
    ]
