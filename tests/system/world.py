"""An API that asks an auth service about keys and fetches the keys that tokens are signed with."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.api import ApiServer, ApiUser, Reply
from tests.identity import AuthService, Service, Signer, service
from tests.system import contract

AUDIENCE = "https://kelpie.example"


@dataclass
class World:
    """An API and the services that it asks about credentials."""

    server: ApiServer
    auth: AuthService
    jwks: Service
    signer: Signer
    redis_url: str

    def request(self, method: str, path: str, headers: dict[str, str], **how: Any) -> Reply:
        return ApiUser(self.server, "").request(method, path, headers=headers, anonymous=True, **how)

    def ok(self, method: str, path: str, headers: dict[str, str], **how: Any) -> Any:
        status, _, answer = self.request(method, path, headers, **how)
        assert 200 <= status < 300, (method, path, status, answer)
        return answer

    def organization(self) -> tuple[str, dict[str, str]]:
        """A new organization, and the headers of who has its key."""
        name, key = f"org-{uuid.uuid4().hex[:8]}", f"key-{uuid.uuid4().hex}"
        self.auth.keys[key] = name
        return name, {"Salad-Api-Key": key, "Salad-Organization": name, "Salad-Project": "sims"}

    def node(self, organization: str, machine_id: str = "machine-1", **token: Any) -> dict[str, str]:
        """The headers of a node of an organization."""
        said = {"salad_organization_name": organization, "salad_machine_id": machine_id, "aud": AUDIENCE}
        signed = self.signer.token(**(said | token))
        return {"Authorization": f"Bearer {signed}", "Salad-Project": "sims"}


def _settings(auth: Service, jwks: Service) -> dict[str, str]:
    return {
        "KELPIE_AUTH_URL": auth.url,
        "KELPIE_AUTH_USER": "kelpie",
        "KELPIE_AUTH_PASSWORD": "auth-password-of-kelpie",
        "KELPIE_AUTH_TIMEOUT_S": "5",
        "KELPIE_AUTH_REFUSAL_CACHE_S": "0",
        "KELPIE_JWKS_URL": jwks.url,
        "KELPIE_JWKS_RENEW_AFTER_S": "1",
        "KELPIE_JWT_AUDIENCE": AUDIENCE,
        "KELPIE_LOG_LEVEL": "debug",
    }


def start_world(redis_url: str, directory: Path, **more: str) -> Iterator[World]:
    with service() as auth, service() as jwks:
        signer = Signer("key-1")
        signer.publish(jwks)
        with ApiServer(redis_url, directory, **(_settings(auth, jwks) | more)) as server:
            yield World(server, AuthService(auth), jwks, signer, redis_url)


def refused(reply: Reply, status: int) -> str:
    """What a refusal says."""
    return str(contract.refused(reply, status)["message"])


def work_path(machine_id: str = "machine-1", group: str = "group-1") -> str:
    return f"/work?machine_id={machine_id}&container_group_id={group}"


def report(machine_id: str = "machine-1", **more: Any) -> dict[str, Any]:
    return {"machine_id": machine_id, "container_group_id": "group-1"} | more


def scoped(api: ApiUser, *scopes: str, **more: Any) -> ApiUser:
    """The API as a narrower key of the same user sees it."""
    made = api.ok("POST", "/users/me/keys", json={"scopes": list(scopes), **more})
    return ApiUser(api.server, made["token"], api.user_id)
