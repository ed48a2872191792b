"""The secrets of a platform on one machine: made once, kept in a file that only its owner reads."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from kelpie.client import Client
from kelpie.errors import ForbiddenError, InvalidInputError, StartupError

_USER = "local"
_NODES = "nodes of kelpie up"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Every secret. ``user_key`` and ``node_key`` are empty until the API has made them."""

    admin_key: str
    redis_password: str
    s3_access_key: str
    s3_secret_key: str
    user_key: str = ""
    node_key: str = ""  # a command can read its worker's environment: it can do no more than nodes must

    def __repr__(self) -> str:
        return "Credentials(…)"


def load_or_create(file: Path) -> Credentials:
    """The credentials in ``file``, made and written there first when it does not exist."""
    try:
        found = json.loads(file.read_text())
        found.setdefault("node_key", "")  # a folder from before nodes had a key of their own
        return Credentials(**{field.name: str(found[field.name]) for field in fields(Credentials)})
    except FileNotFoundError:
        made = Credentials(
            admin_key=f"klp_{secrets.token_hex(24)}",
            redis_password=secrets.token_hex(24),
            s3_access_key=secrets.token_hex(10),
            s3_secret_key=secrets.token_hex(20),
        )
        _write(file, made)
        return made
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartupError(
            f"{file} cannot be read as credentials ({type(error).__name__}); restore it, or remove it "
            "and new ones are made"
        ) from error


def ensure_user(file: Path, known: Credentials, url: str) -> Credentials:
    """The credentials with the keys of the user whose jobs the nodes run, and of the nodes."""
    complete = known
    if not complete.user_key:
        with Client(url, known.admin_key) as admin:
            try:
                user = admin.create_user(_USER)
            except InvalidInputError:  # the name is taken, its key was lost with an older file
                user = admin.create_user(f"{_USER}-{secrets.token_hex(4)}")
            complete = replace(complete, user_key=admin.create_key(user.id), node_key="")
    if not complete.node_key or not _is_known(url, complete.node_key):
        with Client(url, complete.user_key) as user_client:
            node_key, _ = user_client.create_own_key(scopes=["work"], name=_NODES)
            complete = replace(complete, node_key=node_key)
    if complete != known:
        _write(file, complete)
    return complete


def _is_known(url: str, key: str) -> bool:
    """Whether the API takes this key; its user may have revoked it."""
    try:
        with Client(url, key) as client:
            client.me()
    except ForbiddenError:
        return False
    return True


def _write(file: Path, credentials: Credentials) -> None:
    """Atomically, and never readable to others, not even for a moment."""
    temporary = file.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        json.dump(asdict(credentials), output, indent=2)
        output.flush()
        os.fsync(output.fileno())
    temporary.replace(file)
