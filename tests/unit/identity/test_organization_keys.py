"""The auth service over real HTTP: what it is asked, and what its answers and failures mean."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kelpie.errors import UnavailableError
from kelpie.identity import Organization, OrganizationKeys
from tests.identity import AuthService, Service, verdict


def keys(web: Service, **how: Any) -> OrganizationKeys:
    settings: dict[str, Any] = {
        "user": "kelpie",
        "password": "pässword",
        "timeout_s": 5,
        "keep_s": 60,
        "refusal_s": 5,
        "outage_s": 600,
    }
    return OrganizationKeys(web.url, **(settings | how))


def test_it_is_asked_as_it_expects(auth: AuthService) -> None:
    assert keys(auth.service).check("good", "acme") == Organization("acme", "id of acme")
    [asked] = auth.service.asked
    assert (asked.method, asked.path) == ("POST", "/ask")
    assert asked.json == {"api_key": "good", "organization_name": "acme"}
    assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"kelpie:p\xe4ssword"


def test_without_user_and_password_it_is_asked_without(auth: AuthService) -> None:
    assert keys(auth.service, user="", password="").check("good", "acme")
    assert "authorization" not in auth.service.asked[0].headers


@pytest.mark.parametrize("flag", ["is_api_key_valid", "is_organization_name_valid", "is_entitled"])
def test_any_no_is_a_refusal(web: Service, flag: str) -> None:
    web.answer = lambda _: json.dumps(verdict(**{flag: False})).encode()
    assert keys(web).check("key", "acme") is None


def test_the_services_own_name_of_the_organization_counts(web: Service) -> None:
    web.answer = lambda _: json.dumps(verdict("acme")).encode()
    assert keys(web).check("key", "ACME") == Organization("acme", "org-1")


def test_a_service_that_tells_no_id_is_good_enough(web: Service) -> None:
    answer = verdict()
    del answer["organization_id"], answer["organization_name"]
    web.answer = lambda _: json.dumps(answer).encode()
    assert keys(web).check("key", "acme") == Organization("acme", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 50_000,
        json.dumps(verdict(is_entitled="true")).encode(),
        json.dumps(verdict(is_api_key_valid=1)).encode(),
        json.dumps(verdict(organization_name="a\nb")).encode(),
        json.dumps(verdict(organization_name=5)).encode(),
        json.dumps(verdict(organization_name="x" * 129)).encode(),
        json.dumps(verdict(organization_id=["x"])).encode(),
        json.dumps(verdict(padding="x" * 70_000)).encode(),
    ],
)
def test_garbage_is_an_outage_and_never_a_refusal(web: Service, body: bytes) -> None:
    web.answer = lambda _: body
    with pytest.raises(UnavailableError):
        keys(web).check("key", "acme")


@pytest.mark.parametrize("status", [201, 204, 301, 307, 400, 401, 403, 404, 429, 500, 503])
def test_any_status_but_200_is_an_outage(web: Service, status: int) -> None:
    web.status = status
    web.headers = {"Location": web.url}
    web.answer = lambda _: b"" if status == 204 else json.dumps(verdict()).encode()
    with pytest.raises(UnavailableError):
        keys(web).check("key", "acme")
    assert len(web.asked) == 1  # no redirect is followed, nothing is tried again


def test_a_closed_port_is_an_outage() -> None:
    with pytest.raises(UnavailableError):
        keys(Service(port=1)).check("key", "acme")


def test_a_silent_service_is_an_outage_and_a_later_answer_counts(auth: AuthService) -> None:
    checked = keys(auth.service, timeout_s=0.1)
    auth.service.going.clear()
    with pytest.raises(UnavailableError):
        checked.check("good", "acme")
    auth.service.going.set()
    assert checked.check("good", "acme")


def test_a_connection_that_the_service_has_closed_meanwhile_is_no_outage(auth: AuthService) -> None:
    checked = keys(auth.service, keep_s=0)
    auth.service.headers = {"Connection": "close"}
    assert checked.check("good", "acme")
    assert checked.check("good", "acme")


def test_an_answer_about_one_key_says_nothing_of_another_key_or_organization(
    auth: AuthService,
) -> None:
    auth.keys["other"] = "initech"
    checked = keys(auth.service)
    assert checked.check("good", "acme")
    assert checked.check("good", "initech") is None
    assert checked.check("bad", "acme") is None
    assert checked.check('good", "acme', "") is None
    assert len(auth.service.asked) == 4


def test_what_was_found_out_in_another_epoch_is_not_used(auth: AuthService) -> None:
    checked = keys(auth.service)
    assert checked.check("good", "acme", epoch=1)
    auth.keys.clear()
    assert checked.check("good", "acme", epoch=1)
    assert checked.check("good", "acme", epoch=2) is None


def test_no_key_is_kept_in_memory_or_told_in_an_error(web: Service) -> None:
    web.status = 500
    checked = keys(web)
    with pytest.raises(UnavailableError) as refused:
        checked.check("very-secret", "acme")
    assert "very-secret" not in str(refused.value)
    assert "word" not in str(refused.value)
    web.status, web.answer = 200, lambda _: json.dumps(verdict()).encode()
    assert checked.check("very-secret", "acme")
    assert "very-secret" not in repr([*checked._answers._good, *checked._answers._refused])
