"""Credentials in the application itself: what only other settings than the usual ones show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from pydantic import ValidationError
from werkzeug.test import TestResponse

from kelpie.config import Settings
from kelpie.http.app import create_app
from kelpie.http.context import services
from kelpie.store import Store
from tests.factories import job_body
from tests.identity import Service, Signer, service


@pytest.fixture
def jwks() -> Iterator[Service]:
    with service() as state:
        yield state


@pytest.fixture
def signer(jwks: Service) -> Signer:
    made = Signer("key-1")
    made.publish(jwks)
    return made


@pytest.fixture
def made(store: Store) -> Iterator[Any]:
    """Makes an application with these settings."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Flask:
            app = create_app(Settings(**settings), store)
            stack.callback(services(app).close)  # its pulse, too, ends with the test
            return app

        yield make


def poll(app: Flask, token: str, group: str) -> TestResponse:
    headers = {"Authorization": f"Bearer {token}", "Salad-Project": "sims"}
    query = {"machine_id": "machine-1", "container_group_id": group}
    return app.test_client().get("/work", headers=headers, query_string=query)


def test_a_node_may_be_bound_to_the_group_that_its_token_names(
    made: Any, jwks: Service, signer: Signer, store: Store
) -> None:
    app = made(jwks_url=jwks.url, jwt_bind_workload=True)
    token = signer.token(salad_workload_id="group-1")
    assert poll(app, token, "group-1").status_code == 200
    refusal = poll(app, token, "group-2")
    assert refusal.status_code == 403
    assert "workload" in refusal.get_json()["message"]
    assert poll(app, signer.token(salad_workload_id=None), "group-1").status_code == 403
    key = store.users.create_key(store.users.create("ada").id, "org", "project")
    headers = {"X-Kelpie-Key": key}  # what is no node is not bound
    assert app.test_client().post("/jobs", headers=headers, json=job_body()).status_code == 202
    anywhere = {"machine_id": "m", "container_group_id": "any"}
    assert app.test_client().get("/work", headers=headers, query_string=anywhere).status_code == 200


def test_a_node_may_serve_any_group_of_its_organization_otherwise(
    made: Any, jwks: Service, signer: Signer
) -> None:
    app = made(jwks_url=jwks.url)
    assert poll(app, signer.token(salad_workload_id="group-1"), "group-2").status_code == 200


def test_service_accounts_of_kubernetes_serve_as_identities_of_nodes(
    made: Any, jwks: Service, signer: Signer, store: Store
) -> None:
    app = made(
        jwks_url=jwks.url,
        jwt_audience="kelpie",
        jwt_issuer="https://kubernetes.default.svc",
        jwt_machine_claim="/kubernetes.io/pod/name",
        jwt_organization_claim="/kubernetes.io/namespace",
        jwt_workload_claim="/kubernetes.io/serviceaccount/name",
    )
    token = signer.token(
        salad_machine_id=None,
        salad_organization_name=None,
        iss="https://kubernetes.default.svc",
        aud=["kelpie"],
        sub="system:serviceaccount:sims:runner",
        **{
            "kubernetes.io": {
                "namespace": "sims",
                "pod": {"name": "machine-1", "uid": "5b2e0f4e"},
                "serviceaccount": {"name": "runner", "uid": "6a0e"},
            }
        },
    )
    assert poll(app, token, "group-1").status_code == 200
    assert [user.username for user in store.users.page()] == ["organization:sims"]


def test_what_is_not_configured_counts_as_no_credentials(made: Any, jwks: Service, signer: Signer) -> None:
    app = made()
    salad = {"Salad-Api-Key": "k", "Salad-Organization": "o", "Salad-Project": "p"}
    assert app.test_client().get("/jobs", headers=salad).status_code == 401
    assert poll(app, signer.token(), "group-1").status_code == 401
    only_nodes = made(jwks_url=jwks.url)
    assert only_nodes.test_client().get("/jobs", headers=salad).status_code == 401
    assert jwks.asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"auth_url": "ftp://x"},
        {"auth_url": "https://user:secret@host/"},
        {"jwks_url": "keys.json"},
        {"jwks_ca_file": "/does/not/exist"},
        {"jwks_token_file": "/does/not/exist"},
        {"jwt_machine_claim": ""},
        {"auth_timeout_s": 0},
    ],
)
def test_a_wrong_setting_is_refused_and_not_shown(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**wrong)
    assert "secret" not in str(refused.value)
