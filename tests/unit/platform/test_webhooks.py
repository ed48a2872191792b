from __future__ import annotations

import base64
import json
import socket
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from kelpie.platform import guard
from kelpie.platform.webhooks import DeliveryError, Message, send, signed_headers
from tests.unit.platform.receiver import Receiver, receiver

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
MESSAGE = Message("kelpie-1-5-0", "completed", "11111111-1111-4111-8111-111111111111", "node-1", "group-1")
TIMEOUT_S = 5


def deliver(to: Receiver, path: str = "/hook?x=1") -> int:
    target = guard.resolve(to.url + path, allow_private=True)
    body = MESSAGE.body()
    return send(
        target, body, signed_headers(MESSAGE.id, body, SECRET, datetime.now(UTC)), timeout_s=TIMEOUT_S
    )


def test_a_delivery_says_what_the_wire_promises_and_nothing_else() -> None:
    with receiver() as to:
        assert deliver(to) == 204
    [delivery] = to.deliveries
    assert delivery.path == "/hook?x=1"
    assert json.loads(delivery.body) == {
        "status": "completed",
        "job_id": MESSAGE.job_id,
        "machine_id": "node-1",
        "container_group_id": "group-1",
    }
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["host"] == f"127.0.0.1:{to.port}"
    assert delivery.headers["webhook-id"] == MESSAGE.id


def test_the_receiver_can_verify_a_delivery_with_the_users_secret() -> None:
    with receiver() as to:
        deliver(to)
    [delivery] = to.deliveries
    assert Webhook(SECRET).verify(delivery.body, delivery.headers) == json.loads(delivery.body)
    assert delivery.headers["x-kelpie-key"] == SECRET
    other = "whsec_" + base64.b64encode(b"another secret").decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(delivery.body, delivery.headers)


def test_redirects_are_not_followed() -> None:
    with receiver() as elsewhere, receiver() as to:
        to.statuses, to.location = [302], elsewhere.url
        with pytest.raises(DeliveryError, match="answered 302"):
            deliver(to)
    assert not elsewhere.deliveries


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503])
def test_every_answer_but_2xx_is_a_failed_delivery(status: int) -> None:
    with receiver() as to:
        to.statuses = [status]
        with pytest.raises(DeliveryError, match=f"answered {status}"):
            deliver(to)


def test_nobody_listening_is_a_failed_delivery() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(DeliveryError):
        deliver(Receiver(url=f"http://127.0.0.1:{port}"))


def test_a_receiver_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = guard.resolve(f"http://127.0.0.1:{mute.getsockname()[1]}/", allow_private=True)
        with pytest.raises(DeliveryError, match="Timeout"):
            send(target, b"{}", {}, timeout_s=0.2)


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with receiver() as to:
        target = guard.Target("http", "two.example", to.port, ("127.0.0.2", "127.0.0.1"), "/")
        assert send(target, b"{}", {}, timeout_s=TIMEOUT_S) == 204
    assert to.deliveries[0].headers["host"] == f"two.example:{to.port}"


def test_errors_do_not_show_the_path_of_the_url() -> None:
    with receiver() as to:
        to.statuses = [500]
        with pytest.raises(DeliveryError) as caught:
            deliver(to, "/secret-token")
    assert "secret-token" not in str(caught.value)
