"""The secrets of a platform on one machine: made once, kept in a file that only its owner reads."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from kelpie.client import Client
from kelpie.errors import InvalidInputError, StartupError

_USER = "local"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Every secret. ``user_key`` is empty until the API has made the user."""

    admin_key: str
    redis_password: str
    s3_access_key: str
    s3_secret_key: str
    user_key: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"


def load_or_create(file: Path) -> Credentials:
    """The credentials in ``file``, made and written there first when it does not exist."""
    try:
        found = json.loads(file.read_text())
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(
            f"{file} cannot be read as credentials ({type(error).__name__}); restore it, or remove it "
            "and new ones are made"
        ) from error


def ensure_user(file: Path, known: Credentials, url: str) -> Credentials:
    """The credentials with the key of the user whose jobs the nodes run: an ordinary one, not the admin."""
    if known.user_key:
        return known
    with Client(url, known.admin_key) as admin:
        try:
            user = admin.create_user(_USER)
        except InvalidInputError:  # the name is taken, its key was lost with an older file
            user = admin.create_user(f"{_USER}-{secrets.token_hex(4)}")
        complete = replace(known, user_key=admin.create_key(user.id))
    _write(file, complete)
    return complete


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
