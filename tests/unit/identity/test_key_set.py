"""The published keys over real HTTP: remembered, renewed for an unknown one, and borne when they are away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import OctKey, RSAKey

from kelpie.errors import UnavailableError
from kelpie.identity.key_set import KeySet
from tests.identity import Service, Signer, own_certificate, service


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key_set(web: Service, clock: Clock, **how: Any) -> KeySet:
    settings: dict[str, Any] = {"timeout_s": 5, "keep_s": 3600, "renew_after_s": 30, "outage_s": 600}
    return KeySet(web.url, clock=clock, **(settings | how))


def kid_of(found: Any) -> str | None:
    return None if found is None else found.kid


def test_keys_are_fetched_once_and_again_when_their_time_is_over(
    web: Service, signer: Signer, clock: Clock
) -> None:
    signer.publish(web)
    keys = key_set(web, clock)
    for _ in range(3):
        assert kid_of(keys.find("rsa-1", "RS256")) == "rsa-1"
    assert kid_of(keys.find("ec-1", "ES256")) == "ec-1"
    assert len(web.asked) == 1
    clock.now += 3601
    assert kid_of(keys.find("rsa-1", "RS256")) == "rsa-1"
    assert len(web.asked) == 2


def test_an_unknown_key_id_has_them_fetched_anew_once_per_interval(web: Service, clock: Clock) -> None:
    signer = Signer("old")
    signer.publish(web)
    keys = key_set(web, clock)
    assert keys.find("old", "RS256")
    signer.add("new")
    assert keys.find("new", "RS256") is None  # they were fetched a moment ago
    clock.now += 31
    assert kid_of(keys.find("new", "RS256")) == "new"
    for number in range(20):
        assert keys.find(f"made-up-{number}", "RS256") is None
    assert len(web.asked) == 2


def test_a_key_that_is_no_longer_published_ends_with_the_time_of_the_set(web: Service, clock: Clock) -> None:
    signer = Signer("a", "b")
    signer.publish(web)
    keys = key_set(web, clock)
    assert keys.find("a", "RS256")
    del signer.keys["a"]
    clock.now += 3601
    assert keys.find("a", "RS256") is None
    assert keys.find("b", "RS256")


def test_an_outage_is_borne_for_known_keys_and_refuses_no_unknown_one(
    web: Service, signer: Signer, clock: Clock
) -> None:
    signer.publish(web)
    keys = key_set(web, clock)
    keys.find("rsa-1", "RS256")
    web.status = 500
    clock.now += 3601
    assert keys.find("rsa-1", "RS256")
    with pytest.raises(UnavailableError):  # it may be a new one: nobody can tell now
        keys.find("new", "RS256")
    clock.now += 601
    with pytest.raises(UnavailableError):
        keys.find("rsa-1", "RS256")


def test_without_a_key_id_only_a_single_fitting_key_is_meant(
    web: Service, signer: Signer, clock: Clock
) -> None:
    signer.publish(web)
    keys = key_set(web, clock)
    assert kid_of(keys.find(None, "RS256")) == "rsa-1"
    assert keys.find(None, "ES256") is None  # there are two of that kind


def test_a_key_verifies_algorithms_of_its_kind_only(web: Service, signer: Signer, clock: Clock) -> None:
    signer.publish(web)
    keys = key_set(web, clock)
    assert keys.find("rsa-1", "ES256") is None
    assert keys.find("ec-1", "RS256") is None
    assert keys.find("ed-1", "EdDSA")


def test_keys_of_other_kinds_and_uses_are_passed_over(web: Service, clock: Clock) -> None:
    good = RSAKey.generate_key(2048, {"kid": "good"}).as_dict(private=False)
    published = [
        {"kty": "unheard-of", "kid": "x"},
        {"no": "kty"},
        "text",
        None,
        OctKey.generate_key(256, {"kid": "symmetric"}).as_dict(),
        RSAKey.generate_key(1024, {"kid": "short"}).as_dict(private=False),
        good | {"kid": "for-encryption", "use": "enc"},
        good | {"kid": "of-another-algorithm", "alg": "RS512"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": 5},
        {"kty": "EC", "kid": "off-curve", "crv": "P-256", "x": "AA", "y": "AA"},
        good,
    ]
    web.answer = lambda _: json.dumps({"keys": published}).encode()
    keys = key_set(web, clock)
    assert kid_of(keys.find("good", "RS256")) == "good"
    assert kid_of(keys.find("of-another-algorithm", "RS512")) == "of-another-algorithm"
    for kid in ("symmetric", "short", "for-encryption", "of-another-algorithm", "broken", "off-curve", "x"):
        assert keys.find(kid, "RS256") is None, kid


@pytest.mark.parametrize("body", [b"", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [5]}', b"<html>"])
def test_a_set_without_keys_is_an_outage(web: Service, clock: Clock, body: bytes) -> None:
    web.answer = lambda _: body
    with pytest.raises(UnavailableError):
        key_set(web, clock).find("a", "RS256")


def test_a_redirect_is_not_followed(web: Service, signer: Signer, clock: Clock) -> None:
    signer.publish(web)
    web.status, web.headers = 302, {"Location": web.url}
    with pytest.raises(UnavailableError):
        key_set(web, clock).find("rsa-1", "RS256")
    assert len(web.asked) == 1


def test_a_huge_answer_is_an_outage(web: Service, signer: Signer, clock: Clock) -> None:
    web.answer = lambda _: json.dumps(signer.jwks() | {"padding": "x" * 2**21}).encode()
    with pytest.raises(UnavailableError):
        key_set(web, clock).find("rsa-1", "RS256")


def test_a_service_of_the_clusters_own_authority_is_trusted_by_a_file_only(
    signer: Signer, clock: Clock, tmp_path: Path
) -> None:
    certificate = tmp_path / "ca.pem"
    with service(tls=own_certificate(certificate)) as web:
        signer.publish(web)
        assert web.url.startswith("https://")
        with pytest.raises(UnavailableError):
            key_set(web, clock).find("rsa-1", "RS256")
        assert web.asked == []
        assert key_set(web, clock, ca_file=certificate).find("rsa-1", "RS256")


def test_the_token_for_the_service_is_read_at_every_fetch(
    web: Service, signer: Signer, clock: Clock, tmp_path: Path
) -> None:
    signer.publish(web)
    token = tmp_path / "token"
    token.write_text("first\n")
    keys = key_set(web, clock, token_file=token)
    keys.find("rsa-1", "RS256")
    token.write_text("second\n")
    clock.now += 3601
    keys.find("rsa-1", "RS256")
    assert [asked.headers["authorization"] for asked in web.asked] == ["Bearer first", "Bearer second"]
    token.unlink()
    clock.now += 3601
    assert keys.find("rsa-1", "RS256")  # as in any outage
