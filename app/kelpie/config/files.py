"""Settings that stand in files: ``KELPIE_ADMIN_KEY_FILE`` names the file that holds ``KELPIE_ADMIN_KEY``.

An environment shows in `docker inspect`, in /proc and in the manifest of a pod; a file that the supervisor
mounts (secrets of compose and Kubernetes, credentials of systemd) does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from kelpie.errors import StartupError

SUFFIX = "_FILE"
MAX_BYTES = 65_536


class FileSource(PydanticBaseSettingsSource):
    """Reads each setting whose variable with ``_FILE`` behind its name is set."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._prefix = settings_cls.model_config.get("env_prefix", "")

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The text of the field's file, or None. Raises StartupError."""
        del field
        name = f"{self._prefix}{field_name}".upper()
        path = os.environ.get(name + SUFFIX)
        if not path:
            return None, field_name, False
        if os.environ.get(name):
            raise StartupError(f"{name} and {name}{SUFFIX} are both set; set one of them.")
        return read_secret(Path(path), name + SUFFIX), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The settings that stand in files. Raises StartupError."""
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


def read_secret(path: Path, variable: str) -> str:
    """The text of a small file without the white space around it. Raises StartupError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StartupError(f"{variable}: {path} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise StartupError(f"{variable}: {path} has more than {MAX_BYTES} bytes; a setting has fewer.")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise StartupError(f"{variable}: {path} is not UTF-8 text.") from None
    if not text:
        raise StartupError(f"{variable}: {path} is empty.")
    return text
