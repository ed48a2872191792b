"""API keys of organizations, which another service knows: asked once, and remembered for a while."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import urllib3

from kelpie.errors import UnavailableError
from kelpie.identity.answers import Answers
from kelpie.identity.web import Web

MAX_ANSWER_BYTES = 65_536
MAX_NAME_CHARS = 128
FLAGS = ("is_api_key_valid", "is_organization_name_valid", "is_entitled")


@dataclass(frozen=True, slots=True)
class Organization:
    """An organization whose key was shown."""

    name: str
    id: str | None  # its own lasting id, where the service tells


class OrganizationKeys:
    """Asks the auth service whether an API key is one of an organization."""

    def __init__(
        self,
        url: str,
        *,
        user: str,
        password: str,
        timeout_s: float,
        keep_s: float,
        refusal_s: float,
        outage_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._web = Web(url, timeout_s=timeout_s, max_bytes=MAX_ANSWER_BYTES)
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if user or password:
            self._headers |= urllib3.util.make_headers(basic_auth=f"{user}:{password}")
        self._answers: Answers[Organization] = Answers(
            "The service that knows organizations' API keys",
            keep_s=keep_s,
            wait_s=2 * timeout_s,  # to connect, and to answer
            outage_s=outage_s,
            refusal_s=refusal_s,
            clock=clock,
        )

    def check(self, api_key: str, organization: str, *, epoch: int = 0) -> Organization | None:
        """The organization, if the key is one of it and it is entitled; None when not.

        What was found out in another ``epoch`` is not used. Raises UnavailableError when the service gives no
        answer and gave none lately.
        """
        return self._answers.get(
            _subject(api_key, organization, epoch), lambda: self._ask(api_key, organization)
        )

    def _ask(self, api_key: str, organization: str) -> Organization | None:
        body = json.dumps({"api_key": api_key, "organization_name": organization}).encode()
        return _verdict(self._web.ask("POST", self._headers, body), organization)


def _subject(api_key: str, organization: str, epoch: int) -> str:
    """What an answer is remembered by: the key itself is not kept in memory."""
    return hashlib.sha256(json.dumps([epoch, organization, api_key]).encode()).hexdigest()


def _verdict(answer: dict[str, Any], organization: str) -> Organization | None:
    flags = [answer.get(name) for name in FLAGS]
    if not all(isinstance(flag, bool) for flag in flags):
        raise UnavailableError(f"the auth service answered without {', '.join(FLAGS)}, each true or false")
    if not all(flags):
        return None
    name = answer.get("organization_name") or organization
    own_id = answer.get("organization_id")
    if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise UnavailableError("the auth service answered with an organization_name that is no name")
    if own_id is not None and (not isinstance(own_id, str | int) or len(str(own_id)) > MAX_NAME_CHARS):
        raise UnavailableError("the auth service answered with an organization_id that is no id")
    return Organization(name, str(own_id) if own_id else None)
