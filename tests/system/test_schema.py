"""What /openapi.json promises, held against generated requests, right and wrong ones, over real HTTP."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api import ApiServer, ApiUser

EXAMPLES = 8  # requests per operation and per caller
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
LONG_POLL_S = 0.1
HEAD_TOO_LONG = {414, 431}
"""Refused before it is known which route is meant."""

OF_ALL_TESTS = {("DELETE", "/jobs"), ("DELETE", "/users")}
"""What the admin may delete is other tests' work too."""


def requests_that_conform(schema: Any, user: ApiUser, *, is_admin: bool = False) -> Counter[str]:
    """How many requests each operation was sent; raises FailureGroup for an answer that breaks the schema."""
    sent: Counter[str] = Counter()

    def send(case: Any) -> None:
        if "wait" in (case.query or {}):
            case.query["wait"] = LONG_POLL_S
        if is_admin and (case.method, case.path) in OF_ALL_TESTS:
            return
        answer = case.call(base_url=user.url, headers={"X-Kelpie-Key": user.key}, timeout=30)
        if answer.status_code not in HEAD_TOO_LONG:
            case.validate_response(answer, checks=CHECKS)
        sent[f"{case.method} {case.path}"] += 1

    for result in schema.get_all_operations():
        operation = result.ok()
        cases = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
        run = settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )(given(case=st.one_of(cases))(send))
        run()
    return sent


@pytest.mark.timeout(600)
@pytest.mark.parametrize("caller", ["user", "admin"])
def test_no_generated_request_breaks_the_schema(api_server: ApiServer, caller: str) -> None:
    is_admin = caller == "admin"
    user = api_server.admin() if is_admin else api_server.new_user()
    schema = schemathesis.openapi.from_url(f"{api_server.url}/openapi.json")
    sent = requests_that_conform(schema, user, is_admin=is_admin)
    assert len(sent) > 15
    assert sent.total() > (EXAMPLES - 1) * len(sent)


def test_an_answer_that_breaks_the_schema_is_noticed(api: ApiUser) -> None:
    description = api.ok("GET", "/openapi.json")
    description["paths"] = {"/users/me": description["paths"]["/users/me"]}
    description["components"]["schemas"]["CallerReply"]["properties"]["username"]["type"] = "integer"
    schema = schemathesis.openapi.from_dict(description)
    with pytest.raises(FailureGroup):
        requests_that_conform(schema, api)
