"""Tokens of nodes: which are accepted, what they say, and every way to forge one that we know of."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest
from joserfc import jwe, jwt
from joserfc.jwk import Key, RSAKey

from kelpie.errors import ForbiddenError, UnavailableError
from kelpie.identity import NodeIdentity, NodeTokens
from kelpie.identity.key_set import _pick
from kelpie.identity.node_tokens import ClaimNames
from tests.identity import Signer

NAMES = ClaimNames("salad_machine_id", "salad_organization_name", "salad_workload_id", "salad_workload_name")
NOW = 1_800_000_000


class Published:
    """The keys of a signer, as if they had been fetched."""

    def __init__(self, signer: Signer) -> None:
        self.keys = list(signer.keys.values())
        self.asked = 0

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        self.asked += 1
        return _pick(self.keys, kid, algorithm)


@pytest.fixture
def published(signer: Signer) -> Published:
    return Published(signer)


def tokens(published: Published, names: ClaimNames = NAMES, **how: Any) -> NodeTokens:
    return NodeTokens(published, names, clock=lambda: NOW, **({"leeway_s": 30} | how))


def refused(judge: NodeTokens, token: str) -> str:
    with pytest.raises(ForbiddenError) as error:
        judge.verify(token)
    assert len(token) < 20 or token not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("kid", "alg"),
    [
        ("rsa-1", "RS256"),
        ("rsa-1", "RS384"),
        ("rsa-1", "RS512"),
        ("rsa-1", "PS256"),
        ("ec-1", "ES256"),
        ("ec-2", "ES384"),
        ("ed-1", "EdDSA"),
        ("ed-1", "Ed25519"),
    ],
)
def test_a_good_token_says_who_the_node_is(published: Published, signer: Signer, kid: str, alg: str) -> None:
    found = tokens(published).verify(signer.token(kid=kid, alg=alg, exp=NOW + 60))
    assert found == NodeIdentity("machine-1", "acme", "workload-1", "simulations")


def test_a_token_needs_no_workload(published: Published, signer: Signer) -> None:
    token = signer.token(exp=NOW + 60, salad_workload_id=None, salad_workload_name="")
    assert tokens(published).verify(token) == NodeIdentity("machine-1", "acme", None, None)


@pytest.mark.parametrize(
    ("claims", "good"),
    [
        ({"exp": NOW + 1}, True),
        ({"exp": NOW - 29}, True),
        ({"exp": NOW - 31}, False),
        ({"exp": None}, False),
        ({"exp": "never"}, False),
        ({"exp": True}, False),
        ({"exp": NOW + 60, "nbf": NOW + 29}, True),
        ({"exp": NOW + 60, "nbf": NOW + 31}, False),
        ({"exp": NOW + 60, "nbf": "x"}, False),
    ],
)
def test_a_token_counts_from_its_beginning_to_its_end_give_or_take_the_leeway(
    published: Published, signer: Signer, claims: dict[str, Any], good: bool
) -> None:
    token = signer.token(**claims)
    if good:
        assert tokens(published).verify(token)
    else:
        refused(tokens(published), token)


def test_a_token_that_never_ends_by_a_trick_of_json_is_refused(published: Published, signer: Signer) -> None:
    for end in ("NaN", "Infinity", "1e999"):
        payload = b'{"salad_machine_id": "m", "salad_organization_name": "o", "exp": %s}' % end.encode()
        refused(tokens(published), signed(signer.keys["rsa-1"], {"alg": "RS256", "kid": "rsa-1"}, payload))


def test_the_audience_is_held_when_it_is_set(published: Published, signer: Signer) -> None:
    judge = tokens(published, audience="kelpie")
    for good in ("kelpie", ["other", "kelpie"]):
        assert judge.verify(signer.token(exp=NOW + 60, aud=good))
    for bad in (None, "other", ["other"], [], "", 5, {"kelpie": 1}, "kelpie-2"):
        refused(judge, signer.token(exp=NOW + 60, aud=bad))
    assert tokens(published).verify(signer.token(exp=NOW + 60, aud="anything"))


def test_the_issuer_is_held_when_it_is_set(published: Published, signer: Signer) -> None:
    judge = tokens(published, issuer="https://issuer.example")
    assert judge.verify(signer.token(exp=NOW + 60, iss="https://issuer.example"))
    for bad in (None, "https://issuer.example.evil", ["https://issuer.example"], ""):
        refused(judge, signer.token(exp=NOW + 60, iss=bad))


@pytest.mark.parametrize("claim", ["salad_machine_id", "salad_organization_name"])
@pytest.mark.parametrize("value", [None, "", 5, ["x"], {"a": 1}, "a\nb", "x" * 129, True])
def test_a_claim_that_is_no_name_is_refused(
    published: Published, signer: Signer, claim: str, value: Any
) -> None:
    assert claim in refused(tokens(published), signer.token(exp=NOW + 60, **{claim: value}))


def test_claims_may_lie_deeper_and_have_other_names(published: Published, signer: Signer) -> None:
    names = ClaimNames(
        machine_id="/kubernetes.io/pod/name",
        organization="/kubernetes.io/namespace",
        workload_id="/kubernetes.io/serviceaccount/name",
        workload_name="sub",
    )
    claims = {
        "exp": NOW + 60,
        "sub": "system:serviceaccount:sims:runner",
        "kubernetes.io": {
            "namespace": "sims",
            "pod": {"name": "runner-0", "uid": "u"},
            "serviceaccount": {"name": "runner"},
        },
    }
    found = tokens(published, names).verify(signer.token(**claims))
    assert found == NodeIdentity("runner-0", "sims", "runner", "system:serviceaccount:sims:runner")
    escaped = replace(names, machine_id="/a~1b/c~0d")
    assert (
        tokens(published, escaped).verify(signer.token(**claims, **{"a/b": {"c~d": "m"}})).machine_id == "m"
    )
    for wrong in ({"kubernetes.io": "x"}, {"kubernetes.io": {"pod": []}}, {"kubernetes.io": None}):
        refused(tokens(published, names), signer.token(**(claims | wrong)))


# ---- forgeries


def signed(key: Key, header: dict[str, Any], payload: bytes) -> str:
    """A token with any header and any payload, signed by an RSA key with RS256."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    assert isinstance(key, RSAKey)
    body = f"{encoded(json.dumps(header).encode())}.{encoded(payload)}"
    return f"{body}.{encoded(key.private_key.sign(body.encode(), PKCS1v15(), SHA256()))}"


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload(**claims: Any) -> bytes:
    said = {"salad_machine_id": "m", "salad_organization_name": "o", "exp": NOW + 60} | claims
    return json.dumps(said).encode()


def test_the_forging_helper_makes_good_tokens(published: Published, signer: Signer) -> None:
    token = signed(signer.keys["rsa-1"], {"alg": "RS256", "kid": "rsa-1"}, payload())
    assert tokens(published).verify(token).machine_id == "m"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", ""])
def test_an_unsigned_token_is_refused(published: Published, alg: str) -> None:
    for header in ({"alg": alg}, {"alg": alg, "kid": "rsa-1"}):
        for signature in ("", "AA"):
            token = f"{encoded(json.dumps(header).encode())}.{encoded(payload())}.{signature}"
            refused(tokens(published), token)
    assert published.asked == 0


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_a_public_key_used_as_a_shared_secret_is_refused(
    published: Published, signer: Signer, form: str
) -> None:
    key = signer.keys["rsa-1"]
    assert isinstance(key, RSAKey)
    secret = {
        "pem": key.as_pem(private=False),
        "der": key.as_der(private=False),
        "jwk": json.dumps(key.as_dict(private=False)).encode(),
    }[form]
    for alg in ("HS256", "HS384", "HS512"):
        body = f"{encoded(json.dumps({'alg': alg, 'kid': 'rsa-1'}).encode())}.{encoded(payload())}"
        mac = hmac.new(secret, body.encode(), getattr(hashlib, f"sha{alg[2:]}")).digest()
        refused(tokens(published), f"{body}.{encoded(mac)}")
    assert published.asked == 0


def test_a_key_that_the_token_brings_along_is_not_used(published: Published) -> None:
    own = RSAKey.generate_key(2048, {"kid": "rsa-1"})
    for more in (
        {"jwk": own.as_dict(private=False)},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
    ):
        refused(tokens(published), signed(own, {"alg": "RS256", "kid": "rsa-1"} | more, payload()))


def test_another_payload_or_header_under_a_good_signature_is_refused(
    published: Published, signer: Signer
) -> None:
    head, said, signature = signer.token(exp=NOW + 60).split(".")
    other = encoded(payload(salad_organization_name="initech"))
    refused(tokens(published), f"{head}.{other}.{signature}")
    header = encoded(json.dumps({"alg": "PS256", "kid": "rsa-1"}).encode())
    refused(tokens(published), f"{header}.{said}.{signature}")
    refused(tokens(published), f"{head}.{said}.{'A' * len(signature)}")
    refused(tokens(published), f"{head}.{said}.")


def test_a_critical_header_that_is_not_understood_is_refused(published: Published, signer: Signer) -> None:
    header = {"alg": "RS256", "kid": "rsa-1", "crit": ["made-up"], "made-up": True}
    refused(tokens(published), signed(signer.keys["rsa-1"], header, payload()))


def test_an_unknown_header_that_is_not_critical_does_not_matter(published: Published, signer: Signer) -> None:
    header = {"alg": "RS256", "kid": "rsa-1", "made-up": True}
    assert tokens(published).verify(signed(signer.keys["rsa-1"], header, payload()))


def test_an_encrypted_token_is_refused(published: Published, signer: Signer) -> None:
    key = signer.keys["rsa-1"]
    token = jwt.encode(
        {"alg": "RSA-OAEP", "enc": "A128GCM", "kid": "rsa-1"},
        {"salad_machine_id": "m", "salad_organization_name": "o", "exp": NOW + 60},
        key,
        algorithms=["RSA-OAEP", "A128GCM"],
        registry=jwe.JWERegistry(algorithms=["RSA-OAEP", "A128GCM"]),
    )
    refused(tokens(published), token)


@pytest.mark.parametrize("kid", [5, ["rsa-1"], {"a": 1}, True, "", "../../etc/passwd", "x" * 400])
def test_an_odd_key_id_is_refused(published: Published, signer: Signer, kid: Any) -> None:
    refused(tokens(published), signed(signer.keys["rsa-1"], {"alg": "RS256", "kid": kid}, payload()))


@pytest.mark.parametrize("alg", [5, None, ["RS256"], {}, "RS257", "rs256"])
def test_an_odd_algorithm_is_refused(published: Published, signer: Signer, alg: Any) -> None:
    refused(tokens(published), signed(signer.keys["rsa-1"], {"alg": alg, "kid": "rsa-1"}, payload()))


@pytest.mark.parametrize("said", [b"", b"[]", b"5", b'"x"', b"\xff", b"null", b"[" * 5000])
def test_a_payload_that_is_no_object_is_refused(published: Published, signer: Signer, said: bytes) -> None:
    refused(tokens(published), signed(signer.keys["rsa-1"], {"alg": "RS256", "kid": "rsa-1"}, said))


@pytest.mark.parametrize(
    "token", ["x", ".", "..", "x.y.z", "a.b", "ü.ü.ü", "e30.e30.", "W10.e30.AA", "x" * 9000, "a.b.c.d.e"]
)
def test_what_is_no_token_is_refused(published: Published, token: str) -> None:
    refused(tokens(published), token)
    assert published.asked == 0


def test_without_keys_nothing_is_refused(signer: Signer) -> None:
    class Away:
        def find(self, kid: str | None, algorithm: str) -> Key | None:
            raise UnavailableError("away")

    judge = NodeTokens(Away(), NAMES, leeway_s=30, clock=lambda: NOW)
    with pytest.raises(UnavailableError):
        judge.verify(signer.token(exp=NOW + 60))
