"""The scripts and the modules that call them agree; refusals become exceptions."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from kelpie.errors import ConflictError, LeaseLostError, NotFoundError
from kelpie.store import keys, scripts
from kelpie.store.ids import new_job_id, queue_number_of
from kelpie.store.scripts import (
    DELIVERY_PRELUDE,
    DELIVERY_SCRIPTS,
    LEASE_LOST,
    PLAIN_SCRIPTS,
    PRELUDE,
    QUEUE_SCRIPTS,
    load,
    read_lua,
    refusal_of,
)

ALL = QUEUE_SCRIPTS + PLAIN_SCRIPTS + DELIVERY_SCRIPTS


def callers_source() -> str:
    package = resources.files("kelpie.store")
    return "\n".join(
        path.read_text(encoding="utf-8") for path in package.iterdir() if path.name.endswith(".py")
    )


def code_of(name: str) -> str:
    return "\n".join(line for line in read_lua(name).splitlines() if not line.startswith("--"))


def test_every_script_file_is_known() -> None:
    files = {path.name for path in resources.files("kelpie.store").joinpath("lua").iterdir()}
    assert files == {f"{name}.lua" for name in (*ALL, PRELUDE, DELIVERY_PRELUDE)}


@pytest.mark.parametrize("name", ALL)
def test_the_header_of_a_script_says_all(name: str) -> None:
    text = read_lua(name)
    assert re.match(r"-- [A-Z].*\.", text), "the first line says what the script is for"
    assert re.search(r"^-- KEYS\n--   1   ", text, re.MULTILINE)
    assert re.search(r"^-- ARGV\n--   1   ", text, re.MULTILINE)
    assert re.search(r"^-- Returns\n--   \S", text, re.MULTILINE)


@pytest.mark.parametrize("name", ALL)
def test_a_script_reads_the_arguments_that_its_header_names(name: str) -> None:
    script, code = load(name), code_of(name)
    named: dict[int, str] = {}
    for names, values in re.findall(r"^local ([\w, ]+) = (.*ARGV.*)$", code, re.MULTILINE):
        numbers = re.findall(r"ARGV\[(\d+)\]", values)
        named |= dict(zip(map(int, numbers), names.split(", "), strict=True))
    expected = {
        n: argument for n, argument in enumerate(script.arguments, start=1) if not argument.endswith("…")
    }
    if name in QUEUE_SCRIPTS:
        assert expected.pop(1) == "queue"  # read by the prelude
        assert script.keys == ("meta",)
    assert named == expected
    if script.arguments[-1].endswith("…"):
        assert f"for i = {len(script.arguments)}, #ARGV" in code


@pytest.mark.parametrize("name", PLAIN_SCRIPTS)
def test_a_plain_script_uses_the_keys_that_its_header_names(name: str) -> None:
    used = {int(number) for number in re.findall(r"KEYS\[(\d+)\]", code_of(name))}
    assert used <= set(range(1, len(load(name).keys) + 1))


@pytest.mark.parametrize("name", ALL)
def test_every_script_has_a_caller(name: str) -> None:
    assert f'"{name}"' in callers_source().replace(read_module("scripts"), "")


def read_module(name: str) -> str:
    return resources.files("kelpie.store").joinpath(f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments",
    [{"queue": 1}, {"queue": 1, "id": "x", "more": 2}, {"queue": 1, "id": None}, {"queue": 1, "id": ["x"]}],
)
def test_a_wrong_argument_is_refused_before_it_is_sent(arguments: Any) -> None:
    with pytest.raises(TypeError):
        load("cancel").encode(arguments)


def test_a_none_in_a_row_is_refused() -> None:
    row: Any = ("id", 0, 3, 60000, None)
    with pytest.raises(TypeError):
        load("submit").encode({"queue": 1, "jobs": [row]})


def test_all_scripts_but_those_that_add_may_run_when_memory_is_short() -> None:
    adding = {"submit", "append_log"}
    for name in adding:
        assert load(name).source.startswith("#!lua\n"), name
    for name in set(ALL) - adding:
        assert load(name).source.startswith("#!lua flags=allow-oom\n"), name


def test_only_tests_read_a_virtual_clock() -> None:
    for name in QUEUE_SCRIPTS:
        assert "local VIRTUAL_CLOCK = false\n" in load(name).source


def test_the_prelude_and_keys_py_name_the_same_keys() -> None:
    prelude = read_lua(PRELUDE)
    queue = keys.QueueKeys(7)
    for name in ("waiting", "leased", "delayed", "on_hold", "grants", "events", "polls", "counters"):
        assert f"PREFIX .. '{name}'" in prelude
        assert getattr(queue, name) == f"{queue.prefix}{name}"
    for name, key in {
        "job:": queue.job("x"),
        "spec:": queue.spec("x"),
        "attempts:": queue.attempts("x"),
        "heartbeat:": queue.heartbeat("x"),
        "log:": queue.log("x"),
        "progress:": queue.progress("x"),
        "progress_history:": queue.progress_history("x"),
        "transfers:": queue.transfers("x"),
        "bans:": queue.bans("x"),
        "jobs:": queue.index("x"),
        "node:": queue.node("x"),
    }.items():
        assert f"PREFIX .. '{name}' .." in prelude
        assert key == f"{queue.prefix}{name}x"
    assert f"'{keys.WAKE_CHANNEL}'" in prelude


def test_every_key_is_described() -> None:
    for name in re.findall(r"PREFIX \.\. '([\w]+)", read_lua(PRELUDE)):
        if name != "virtual_clock":
            assert f"kelpie:{{queue}}:{name}" in (keys.__doc__ or "")


def test_every_key_and_field_of_a_delivery_is_described() -> None:
    text = read_lua(DELIVERY_PRELUDE)
    for name in re.findall(r"ROOT \.\. '(\w+)", text):
        assert f"kelpie:{{webhooks}}:{name}" in (keys.__doc__ or "")
    root = keys.DELIVERY_USERS.removesuffix("users")
    for name, key in {
        "delivery:": keys.delivery("x"),
        "of_user:": keys.deliveries_of_user("x"),
        "of_job:": keys.deliveries_of_job("x"),
    }.items():
        assert f"ROOT .. '{name}' .." in text
        assert key == f"{root}{name}x"
    written = set()
    for name in (*DELIVERY_SCRIPTS, DELIVERY_PRELUDE):
        for call in re.findall(
            r"'H(?:SET|INCRBY)', delivery_key\(.*?\), (.*?)\)$", code_of(name), re.M | re.S
        ):
            written |= set(re.findall(r"(?:^|,\s)\s*'(\w+)'", call)) - {"queued"}
    assert written == set(keys.DELIVERY_FIELDS)


def test_every_field_of_a_job_that_scripts_write_is_described() -> None:
    written = set()
    for name in (*QUEUE_SCRIPTS, PRELUDE):
        written |= set(re.findall(r"\bput\(job, '(\w+)'", code_of(name)))
    written |= {"order", "place", "labels"}  # once, by submit
    assert written <= set(keys.JOB_FIELDS)
    # Times of an end are named like the status; submit takes options under the fields' names.
    by_variable = {"completed", "canceled", "failed", "due", "lease_ms", "max_failures"}
    assert set(keys.JOB_FIELDS) - written <= by_variable | {"retry_backoff_ms", "max_runtime_ms"}


def test_queue_names_cannot_reach_into_one_another() -> None:
    assert keys.queue_name("u", "a/b{c}") == "u/a%2Fb%7Bc%7D"
    assert keys.queue_name("u/a", "b") != keys.queue_name("u", "a/b")


def test_refusals_become_exceptions() -> None:
    assert isinstance(refusal_of("NOTFOUND x"), NotFoundError)
    assert isinstance(refusal_of("CONFLICT completed"), ConflictError)
    for reason in LEASE_LOST:
        lost = refusal_of(f"LEASELOST {reason}")
        assert isinstance(lost, LeaseLostError)
        assert lost.reason == reason
    assert refusal_of("ERR wrong number of arguments") is None


def test_every_reason_that_scripts_give_is_known() -> None:
    given = set(re.findall(r"lease_lost\('(\w+)'", "".join(map(read_lua, QUEUE_SCRIPTS))))
    given |= set(re.findall(r"'(superseded|not_holder|closed)'", read_lua(PRELUDE) + read_lua("finish")))
    assert given <= set(LEASE_LOST)


@pytest.mark.parametrize("number", [1, 2, 3, 1000, 2**31, 2**32 - 1])
def test_a_job_id_leads_to_its_queue(number: int) -> None:
    ids = {new_job_id(number) for _ in range(50)}
    assert len(ids) == 50
    assert {queue_number_of(job_id) for job_id in ids} == {number}


@pytest.mark.parametrize("number", [0, -1, 2**32])
def test_a_queue_number_out_of_bounds_makes_no_id(number: int) -> None:
    with pytest.raises(ValueError, match="queue number"):
        new_job_id(number)


def test_scripts_are_loaded_once() -> None:
    assert load("lease") is load("lease")
    assert scripts.load("lease").sha != scripts.load("lease", virtual_clock=True).sha
