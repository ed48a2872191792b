from __future__ import annotations

from kelpie_worker.imds import MetadataService
from tests.unit.worker.conftest import ScriptedServer


def test_reallocate_gives_a_reason_and_the_metadata_header(server: ScriptedServer) -> None:
    server.answer = lambda request: (204, b"")
    assert MetadataService(server.url).reallocate("banned from 5 jobs") is True
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/reallocate")
    assert request.body == {"reason": "banned from 5 jobs"}
    assert request.headers["metadata"] == "true"


def test_recreate_is_asked_for_without_a_body(server: ScriptedServer) -> None:
    assert MetadataService(server.url).recreate() is True
    assert (server.requests[0].path, server.requests[0].body) == ("/v1/recreate", None)


def test_a_refusal_and_nobody_at_home_are_told(server: ScriptedServer) -> None:
    server.answer = lambda request: (404, {})
    assert MetadataService(server.url).reallocate("r") is False
    assert MetadataService("http://127.0.0.1:1").reallocate("r") is False
