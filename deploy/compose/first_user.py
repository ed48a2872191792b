"""Runs once in `compose.yaml`: a user, a key for people, a key for nodes that can only work, and a bucket."""

from __future__ import annotations

import os
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

from kelpie import Client
from kelpie.errors import InvalidInputError

KEYS = Path(os.environ.get("KEYS_DIR", "/keys"))
ADMIN_KEY = Path(os.environ.get("ADMIN_KEY_FILE", "/run/secrets/admin_key"))
BUCKET = os.environ.get("BUCKET", "kelpie")
USER = "compose"


def main() -> None:
    """Make what is missing. Harmless when repeated."""
    with Client(key=ADMIN_KEY.read_text().strip()) as admin:
        try:
            user = admin.create_user(USER)
        except InvalidInputError:  # a run before this one made it
            user = next(one for one in admin.users() if one.username == USER)
        for name, scopes in (("user", None), ("node", ["work"])):
            file = KEYS / name / "key"
            if not file.exists():
                part = file.with_suffix(".part")
                part.write_text(admin.create_key(user.id, scopes=scopes, name=f"compose {name}"))
                part.chmod(0o444)
                part.rename(file)
    try:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise


if __name__ == "__main__":
    main()
