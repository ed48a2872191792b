"""Every line of the contract has a test over real HTTP that spells its names out."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from kelpie.http import credentials, replies
from kelpie.http.errors import STATUSES as REFUSALS
from kelpie.http.job_models import JobBody, UploadBody
from kelpie.http.job_queries import JobsQuery
from kelpie.http.scaling_models import ScalingRuleBody
from kelpie.http.work_models import FailureBody, WorkQuery
from kelpie.job import WebhookEvent
from kelpie.platform.webhooks import Message, signed_headers
from tests.api import ApiUser
from tests.system import contract_rows as rows

TESTS = Path(__file__).parents[1]
HELPERS = TESTS / "system/contract.py"
OVER_REAL_HTTP = [*(TESTS / "system").glob("test_*.py"), TESTS / "unit/http/test_hardening.py"]

SECRET, NOW = "whsec_c2VjcmV0", datetime.now(UTC)
TABLES = {name: table for name, table in vars(rows).items() if name.isupper() and isinstance(table, dict)}

KNOWN = {
    "CREDENTIALS": {name for key, name in vars(credentials).items() if key.endswith("_HEADER")},
    "KEYS_OF_A_SUBMIT": set(JobBody.model_fields),
    "KEYS_OF_A_SYNC_ENTRY": set(UploadBody.model_fields),
    "KEYS_OF_A_JOB": set(replies.WorkReply.model_fields),
    "KEYS_OF_A_REPORT": set(FailureBody.model_fields),
    "PARAMETERS_OF_A_LIST": set(JobsQuery.model_fields),
    "PARAMETERS_OF_A_POLL": set(WorkQuery.model_fields),
    "KEYS_OF_A_RULE": set(ScalingRuleBody.model_fields),
    "KEYS_OF_A_WEBHOOK": {field.name for field in fields(Message)} - {"id"},
    "EVENTS_OF_A_WEBHOOK": set(WebhookEvent),
    "HEADERS_OF_A_WEBHOOK": {name.lower() for name in signed_headers("id", "{}", [SECRET], NOW)},
}
"""What the code knows of, by the table that must have it all."""


NO_TEST_CAN_MEET = {("POST /users/me/webhook-secret/rotate", "404")}
"""Codes that need a user who is deleted between two lines of the API."""


@cache
def sources() -> dict[str, str]:
    """The source of every test over real HTTP and of the helpers that it calls, by its name."""
    shared = functions_of(HELPERS)
    found: dict[str, str] = {}
    for path in OVER_REAL_HTTP:
        functions = functions_of(path)
        helpers = {name: text for name, (text, _) in (shared | functions).items()}
        for name, (text, called) in functions.items():
            if name.startswith("test_"):
                found[name] = "\n".join([text, *(helpers[helper] for helper in helpers.keys() & called)])
    return found


def functions_of(path: Path) -> dict[str, tuple[str, set[str]]]:
    """The source of each function of a file, with its decorators, and the names that it speaks of."""
    text = path.read_text()
    lines = text.splitlines()
    found: dict[str, tuple[str, set[str]]] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            called = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno]), called
    return found


@pytest.mark.parametrize("table", TABLES)
def test_every_line_is_held_by_tests_that_exist(table: str) -> None:
    assert [line for line, held_by in TABLES[table].items() if not held_by] == []
    named = {name for held_by in TABLES[table].values() for name in held_by}
    assert named - sources().keys() == set()


@pytest.mark.parametrize("table", KNOWN)
def test_every_name_that_the_code_knows_has_a_line_and_is_spelled_out_by_a_test(table: str) -> None:
    assert set(TABLES[table]) == KNOWN[table]
    for name, held_by in TABLES[table].items():
        assert any(re.search(rf"\b{name}\b", sources()[test]) for test in held_by), name


def test_every_route_has_a_line_and_each_of_its_codes_is_written_out_by_a_test(api: ApiUser) -> None:
    paths = api.ok("GET", "/openapi.json")["paths"]
    calls = {
        f"{method.upper()} {path}": call for path, item in paths.items() for method, call in item.items()
    }
    assert set(rows.CALLS) == set(calls)
    codes = {(name, code) for name, call in calls.items() for code in call["responses"]}
    assert codes >= NO_TEST_CAN_MEET
    for name, code in codes - NO_TEST_CAN_MEET:
        if code[0] == "2" or code in {"404", "409"}:  # the others are the same for every call
            assert any(re.search(rf"\b{code}\b", sources()[test]) for test in rows.CALLS[name]), (name, code)


def test_every_status_has_a_line_whose_tests_name_it() -> None:
    assert {str(status) for status, _ in REFUSALS.values()} <= set(rows.STATUSES)
    for status, held_by in rows.STATUSES.items():
        assert any(status in sources()[test] for test in held_by), status
