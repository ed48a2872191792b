"""The how-to about webhooks: its code verifies what Kelpie sends."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kelpie.job import WebhookEvent
from kelpie.platform.schedule import RETRY_AFTER_S
from kelpie.platform.webhooks import signed_headers
from kelpie.store import EventType

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "how-to" / "webhooks.md").read_text()
OLD, NEW = "whsec_b2xkIHNlY3JldCBvZiAzMiBieXRlcyBvciBtb3Jl", "whsec_bmV3IHNlY3JldCBvZiAzMiBieXRlcyBvciBtb3Jl"
BODY = '{"status":"completed"}'


@pytest.fixture
def verified() -> Any:
    """The function of the page."""
    [code] = re.findall(r"```python\n(import base64.*?)```", PAGE, re.S)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is ours
    return names["verified"]


def test_the_code_of_the_page_verifies_what_is_sent(verified: Any) -> None:
    headers = signed_headers("m", BODY, [NEW, OLD], datetime.now(UTC))
    for secret in (OLD, NEW):
        assert verified(BODY.encode(), headers, secret) == {"status": "completed"}


def test_the_code_of_the_page_refuses_what_is_not_sent_by_kelpie(verified: Any) -> None:
    now = datetime.now(UTC)
    for body, headers in (
        (BODY, signed_headers("m", BODY, [OLD], now)),
        (BODY + " ", signed_headers("m", BODY, [NEW], now)),
        (BODY, signed_headers("m", BODY, [NEW], now - timedelta(minutes=6))),
        (BODY, signed_headers("m", BODY, [NEW], now) | {"webhook-id": "other"}),
    ):
        with pytest.raises(ValueError, match=r"too old|not signed"):
            verified(body.encode(), headers, NEW)


def test_the_pages_name_every_event() -> None:
    for event in WebhookEvent:
        assert f"`{event.value}`" in PAGE
    events = (DOCS / "reference" / "events.md").read_text()
    for kind in EventType:
        assert f"`{kind.value}`" in events


def test_the_first_pauses_are_those_of_the_page() -> None:
    assert RETRY_AFTER_S[:5] == (5, 30, 120, 600, 1800)
    assert "after 5 s, 30 s, 2 min, 10 min, 30 min" in PAGE
