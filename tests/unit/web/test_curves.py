from __future__ import annotations

import re

import pytest
from flask import Flask, render_template_string

from kelpie.progress import MAX_POINT_METRICS, ProgressPoint
from kelpie_web.curves import EDGE, HEIGHT, WIDTH, Curve, curves

TOP, BOTTOM = float(EDGE), float(HEIGHT - EDGE)


def places(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split(" "))]


def main_of(points: list[ProgressPoint]) -> Curve:
    drawn = curves(points)
    assert drawn is not None
    assert drawn.main is not None
    return drawn.main


def test_progress_is_a_line_per_attempt_between_nothing_and_all() -> None:
    points = [
        ProgressPoint(0, 1, 0.0),
        ProgressPoint(1000, 1, 0.5),
        ProgressPoint(3000, 2, 0.25),
        ProgressPoint(4000, 2, 1.0),
    ]
    drawn = curves(points)
    assert drawn is not None
    main = main_of(points)
    first, second = map(places, main.lines)
    assert first == [(0, BOTTOM), (WIDTH / 4, HEIGHT / 2)]
    assert second == [(WIDTH * 3 / 4, BOTTOM - (BOTTOM - TOP) / 4), (WIDTH, TOP)]
    assert (drawn.start, drawn.end, main.most, main.least, main.last) == (0, 4000, "100 %", "0 %", "100 %")
    assert main.label == "Progress over 4 s: from 0 % to 100 %, at least 0 %, at most 100 %, in 2 attempts"
    assert [(one.attempt, one.place, one.is_late) for one in drawn.beginnings] == [(2, 75.0, False)]


def test_steps_are_drawn_where_there_is_no_fraction() -> None:
    main = main_of([ProgressPoint(0, 1, None, 1200.0), ProgressPoint(60_000, 1, None, 2400.0)])
    assert main.label == "Step over 1 min: from 1,200 to 2,400, at least 1,200, at most 2,400"
    assert [places(line) for line in main.lines] == [[(0, BOTTOM), (WIDTH, TOP)]]


def test_metrics_are_drawn_between_their_own_bounds_whatever_these_are() -> None:
    told = {"huge": (-1.7e308, 1.7e308), "same": (5.0, 5.0), "tiny": (0.0, 5e-324)}
    points = [
        ProgressPoint(1000 * place, 1, metrics={name: values[place] for name, values in told.items()})
        for place in (0, 1)
    ]
    drawn = curves(points)
    assert drawn is not None
    assert drawn.main is None
    lines = {one.name: places(one.lines[0]) for one in drawn.metrics}
    assert lines["huge"] == [(0, BOTTOM), (WIDTH, TOP)]
    assert lines["same"] == [(0, HEIGHT / 2), (WIDTH, HEIGHT / 2)]
    assert all(0 <= y <= HEIGHT for _, y in lines["tiny"])


def test_the_metrics_that_were_told_last_are_drawn_and_not_too_many() -> None:
    points = [ProgressPoint(time, 1, metrics={f"m{time // 2}": 1.0, "loss": 0.5}) for time in range(200)]
    drawn = curves(points)
    assert drawn is not None
    assert len(drawn.metrics) == MAX_POINT_METRICS
    assert [one.name for one in drawn.metrics][:2] == ["m99", "loss"]


def test_a_single_word_of_an_attempt_is_a_dot_and_crowded_attempts_are_not_all_named() -> None:
    points = [ProgressPoint(1000 * attempt, attempt, attempt / 101) for attempt in range(1, 102)]
    drawn = curves(points)
    assert drawn is not None
    assert len(main_of(points).lines) == 101
    assert all(len(set(places(line))) == 1 and " " in line for line in main_of(points).lines)
    assert len(drawn.beginnings) == 100
    named = [one for one in drawn.beginnings if one.is_named]
    assert 2 < len(named) <= 13
    assert named[-1].is_late


@pytest.mark.parametrize(
    "points",
    [
        [],
        [ProgressPoint(1, 1, 0.5)],
        [ProgressPoint(1, 1, 0.5), ProgressPoint(1, 2, 0.6)],
    ],
)
def test_without_two_times_there_is_nothing_to_draw(points: list[ProgressPoint]) -> None:
    assert curves(points) is None


def test_names_show_as_text_and_the_drawing_says_in_words_what_it_shows(app: Flask) -> None:
    hostile = "\"><script>alert('1')</script>"
    points = [ProgressPoint(1000 * n, 1 + n // 2, n / 4, metrics={hostile: float(n)}) for n in range(4)]
    with app.test_request_context():
        text = render_template_string(
            '{% from "curves.html" import plots %}{{ plots(drawn) }}', drawn=curves(points)
        )
    assert "<script" not in text
    labels = re.findall(r'role="img" aria-label="([^"]+)"', text)
    assert labels[0].startswith("Progress over 3 s: from 0 % to 75 %")
    assert labels[1].endswith("script&gt; over 3 s: from 0 to 3, at least 0, at most 3, in 2 attempts")
    assert text.count("<polyline") == 4
