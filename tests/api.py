"""The API as a process, and the smallest client that sees exactly what is on the wire."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
import urllib3

from kelpie.embedded.processes import LOOPBACK, Server, free_ports

Reply = tuple[int, urllib3.HTTPHeaderDict, Any]


class ApiServer(Server):
    """`kelpie api` on a free port of the loopback."""

    name = "api"

    def __init__(self, redis_url: str, directory: Path, **settings: str) -> None:
        super().__init__(directory)
        self.redis_url = redis_url
        self.settings = settings
        self.port = free_ports(1)[0]
        self.admin_key = uuid.uuid4().hex * 2
        self.url = f"http://{LOOPBACK}:{self.port}"
        # A connection of the pool may be one of an API that the test has killed: a GET is simply asked again.
        retries = urllib3.Retry(2, status=0, redirect=0, allowed_methods={"GET"}, raise_on_status=False)
        self.http = urllib3.PoolManager(retries=retries, maxsize=64)

    def prepare(self) -> tuple[list[str], dict[str, str]]:
        argv = [sys.executable, "-m", "kelpie.cli", "api"]
        argv += ["--bind", f"{LOOPBACK}:{self.port}", "--workers", "2"]
        return argv, {"KELPIE_REDIS_URL": self.redis_url, "KELPIE_ADMIN_KEY": self.admin_key, **self.settings}

    def is_ready(self) -> bool:
        try:
            return bool(self.http.request("GET", f"{self.url}/readyz", timeout=5).status == 200)
        except urllib3.exceptions.HTTPError:
            return False

    def kill(self) -> None:
        """SIGKILL of gunicorn and its workers: the whole machine of the API is gone."""
        family = psutil.Process(self.pid).children(recursive=True) if self.running else []
        for one in family:
            one.kill()
        super().kill()
        psutil.wait_procs(family, timeout=10)

    def admin(self) -> ApiUser:
        """The API as its admin sees it."""
        return ApiUser(self, self.admin_key)

    def new_user(self) -> ApiUser:
        """The API as a user sees it who was made just now."""
        admin = self.admin()
        _, _, user = admin.request("POST", "/users", json={"username": f"user-{uuid.uuid4().hex[:12]}"})
        names = {"org_name": "org", "project_name": "project"}
        _, _, made = admin.request("POST", f"/users/{user['id']}/token", json=names)
        return ApiUser(self, made["token"], user["id"])


class ApiUser:
    """One key's view of the API."""

    def __init__(self, server: ApiServer, key: str, user_id: str | None = None) -> None:
        self.server = server
        self.key = key
        self.user_id = user_id
        self.url = server.url
        self.admin_key = server.admin_key

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        anonymous: bool = False,
    ) -> Reply:
        """(status, headers, parsed JSON or raw text). ``body`` goes as it is, without a content type."""
        sent = {} if anonymous else {"X-Kelpie-Key": key or self.key}
        if json is not None:
            body, sent["Content-Type"] = _dump(json), "application/json"
        reply = self.server.http.request(
            method, self.url + path, body=body, headers=sent | (headers or {}), timeout=40
        )
        text = reply.data.decode()
        is_json = reply.headers.get("Content-Type", "").startswith("application/json")
        return reply.status, reply.headers, (_load(text) if is_json and text else text)

    def ok(self, method: str, path: str, **how: Any) -> Any:
        """The parsed answer of a call that must succeed."""
        status, _, answer = self.request(method, path, **how)
        assert 200 <= status < 300, (method, path, status, answer)
        return answer

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        """Submit one job."""
        return self.ok("POST", "/jobs", json=body)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job with its attempts."""
        return self.ok("GET", f"/jobs/{job_id}?expand=attempts")


def environment_without_kelpie() -> dict[str, str]:
    """This process's environment without settings that would leak into a process under test."""
    prefixes = ("KELPIE_", "SALAD_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _load(text: str) -> Any:
    return json.loads(text)
