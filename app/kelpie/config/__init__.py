"""The settings of the server processes (`kelpie api`, `kelpie platform`), read from the environment once.

Every setting is an environment variable: ``KELPIE_`` and the field's name in capitals; with ``_FILE`` behind
it, the variable names the file that the value stands in. A bad value is refused by name at start. The worker
has settings of its own (kelpie_worker.settings) and does not import this.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kelpie.config.api import ApiSettings
from kelpie.config.credentials import CredentialSettings
from kelpie.config.files import FileSource
from kelpie.config.oidc import OidcSettings
from kelpie.config.platform import PlatformSettings
from kelpie.config.providers import ProviderSettings
from kelpie.config.redis import REDIS_SCHEMES, RQ_SCHEMES, RedisSettings
from kelpie.errors import StartupError

__all__ = ["ENV_PREFIX", "REDIS_SCHEMES", "RQ_SCHEMES", "Settings", "load_settings"]

ENV_PREFIX = "KELPIE_"


class Settings(
    OidcSettings, CredentialSettings, ProviderSettings, PlatformSettings, ApiSettings, RedisSettings
):
    """What the server processes may be told. Frozen: read at start, the same until the end.

    The reference lists the settings of the last base first.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables, and files that variables name; no file that nobody has named."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, FileSource(settings_cls)


def load_settings() -> Settings:
    """The settings in the environment. Raises StartupError that names each bad variable, never its value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{_named(item['loc'])}{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise StartupError(f"A setting is wrong: {wrong}") from None


def _named(place: Sequence[int | str]) -> str:
    """Which variable is meant; nothing when several do not fit together."""
    return f"{ENV_PREFIX}{'_'.join(map(str, place)).upper()}: " if place else ""
