"""The environment that a command runs in."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from kelpie_worker.gpus import VARIABLE
from kelpie_worker.leased import LeasedJob
from kelpie_worker.progress_file import progress_file
from kelpie_worker.settings import Settings

WORKER_SECRETS = frozenset(
    {
        "KELPIE_API_KEY",
        "KELPIE_API_KEY_FILE",
        "KELPIE_API_URL_FILE",
        "KELPIE_ADMIN_KEY",
        "KELPIE_TOKEN_FILE",
        "SALAD_API_KEY",
        "SALAD_API_KEY_FILE",
        "KELPIE_REDIS_URL",
        "REDIS_URL",
    }
)
"""Credentials of the worker and of the control plane. A command never inherits them, nor where they stand."""

STORAGE_CREDENTIALS = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    }
)
"""What boto3 finds the storage's keys by. Withheld by KELPIE_HIDE_STORAGE_CREDENTIALS."""


def command_environment(job: LeasedJob, settings: Settings, container: Mapping[str, str]) -> dict[str, str]:
    """The container's environment without credentials, under the job's own, plus what tells it who it is.

    Anything goes in the job's environment, ``PATH`` and the folders included; only the ``KELPIE_`` facts of
    this attempt cannot be overridden.
    """
    withheld = WORKER_SECRETS | (STORAGE_CREDENTIALS if settings.hide_storage_credentials else frozenset())
    inherited = {
        name: value
        for name, value in container.items()
        if name not in withheld and not (name == "KELPIE_API_URL" and _holds_credentials(value))
    }
    folders = {
        "INPUT_DIR": settings.input_dir,
        "OUTPUT_DIR": settings.output_dir,
        "CHECKPOINT_DIR": settings.checkpoint_dir,
    }
    facts = {
        "KELPIE_JOB_ID": job.id,
        "KELPIE_ATTEMPT": str(job.attempt),
        "KELPIE_STATE_FILE": str(settings.state_file.absolute()),
        "KELPIE_PROGRESS_FILE": str(progress_file(settings.state_file)),
    }
    if settings.slot:
        facts["KELPIE_SLOT"] = str(settings.slot)
        if VARIABLE in container:  # the slot's share: a job that names GPUs would take another slot's
            facts[VARIABLE] = container[VARIABLE]
    return inherited | folders | dict(job.environment) | facts


def _holds_credentials(url: str) -> bool:
    # the address of a Redis is a credential by itself: whoever reaches it holds the queue
    return url.partition("://")[0].lower() not in {"http", "https"} or "@" in urlsplit(url).netloc
