"""The client's part about webhooks: what was delivered, and the secret that signs it."""

from __future__ import annotations

from typing import Any

from kelpie.client.transport import PAGE_SIZE, Transport, segment


class WebhookCalls(Transport):
    """Mixed into :class:`kelpie.Client`."""

    def deliveries(
        self, *, job_id: str | None = None, status: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Up to ``limit`` webhook deliveries of your jobs, the newest first, as the API describes them."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < limit:
            query = {"job_id": job_id, "status": status, "page_size": min(limit, PAGE_SIZE), "cursor": cursor}
            page = self._call("GET", "/webhooks/deliveries", query=query)
            found += page["deliveries"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return found[:limit]

    def delivery(self, delivery_id: str) -> dict[str, Any]:
        """One webhook delivery and every try of it. NotFoundError when you have no such delivery."""
        return dict(self._call("GET", _delivery_path(delivery_id)))

    def replay(self, delivery_id: str) -> dict[str, Any]:
        """Deliver a webhook again, with the same webhook-id."""
        return dict(self._call("POST", f"{_delivery_path(delivery_id)}/replay"))

    def rotate_webhook_secret(self) -> str:
        """A new secret that signs your webhooks; for a day the old one signs beside it."""
        return str(self._call("POST", "/users/me/webhook-secret/rotate")["webhook_secret"])


def _delivery_path(delivery_id: str) -> str:
    return f"/webhooks/deliveries/{segment(delivery_id)}"
