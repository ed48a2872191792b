"""Users who stand for an organization: whoever proves to belong to it speaks for one and the same user."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import redis

from kelpie.errors import ConflictError
from kelpie.store import keys
from kelpie.store.clock import wall_ms
from kelpie.store.codec import text
from kelpie.store.connection import translated
from kelpie.store.names import checked
from kelpie.store.scripts import Scripts
from kelpie.store.users import ORGANIZATION_PREFIX, new_webhook_secret


@dataclass(frozen=True, slots=True)
class OrganizationUser:
    """The user who stands for an organization."""

    epoch: int  # what was found out about organizations' keys in another epoch is void
    user_id: str | None  # None: there is no such user yet
    organization_id: str | None  # the organization's own lasting id, once it is known


class Organizations:
    """Finds the user of an organization. Proving that the caller belongs to it is not its business."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    def look(self, organization: str) -> OrganizationUser:
        """What is known of the organization's user, without making one."""
        with translated():
            reading = self._client.pipeline(transaction=True)
            reading.get(keys.USERS_EPOCH)
            reading.hget(keys.ORGANIZATIONS, username_of(organization))
            epoch, known = reading.execute()
        user_id, _, organization_id = text(known or b"").partition(" ")
        return OrganizationUser(int(epoch or 0), user_id or None, organization_id or None)

    def ensure(self, organization: str, organization_id: str | None) -> str:
        """The user of an organization, made now if there is none; two who come at once get the same.

        ``organization_id`` is the organization's own lasting id, where that is known. Raises ConflictError
        when the name has passed to another organization since: the new one must not get the old one's jobs.
        """
        user_id = str(uuid.uuid4())
        try:
            found = self._scripts.run(
                "ensure_organization",
                (keys.USER_NAMES, keys.ORGANIZATIONS, keys.user(user_id)),
                user_id=user_id,
                username=username_of(organization),
                created=wall_ms(),
                webhook_secret=new_webhook_secret(),
                organization_id=organization_id or "",
            )
        except ConflictError:
            raise ConflictError(
                f"The user of the organization {organization!r} belongs to another organization of that "
                "name; the admin can delete that user, and a new one is made."
            ) from None
        return text(found)


def username_of(organization: str) -> str:
    """The name of the user who stands for an organization."""
    return ORGANIZATION_PREFIX + checked("organization", organization)
